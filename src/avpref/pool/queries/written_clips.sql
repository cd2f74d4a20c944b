-- The written clips with their texts, groups and sources.
-- In: views written, clips, captions, listed. Out: one row per clip, in the order of ids.
SELECT
    written.path AS file, coalesce(captions.text, '') AS text,
    coalesce(nullif(captions.category, ''), clips.taxonomy) AS taxonomy, clips.group_id,
    written.clip_id, written.sha256, written.num_frames, written.height_px, written.width_px, written.fps_hz,
    written.sample_rate_hz, written.duration_s, coalesce(captions.visual, '') AS visual,
    coalesce(captions.auditory, '') AS auditory, coalesce(captions.origin, '') AS caption_origin,
    listed.uri, listed.member, clips.recording_id, clips.start_s, clips.end_s
FROM written
JOIN clips USING (clip_id)
JOIN listed USING (source_id)
LEFT JOIN captions USING (clip_id)
ORDER BY written.clip_id
