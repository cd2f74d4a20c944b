-- Where clips whose ids have a beginning come from and what became of them.
-- In: views clips, listed, sources, decisions, captions, written; $clip. Out: one row per clip.
SELECT clips.clip_id, listed.uri, listed.member, sources.sha256, clips.recording_id, clips.group_id, clips.start_s, clips.end_s,
       clips.first_frame, clips.end_frame, coalesce(captions.text, clips.text) AS text, captions.origin AS text_origin,
       decisions.is_kept, coalesce(decisions.filter, '') AS filter, coalesce(decisions.reason, clips.reason) AS reason,
       coalesce(written.path, '') AS file, coalesce(written.sha256, '') AS file_sha256
FROM clips
JOIN listed USING (source_id)
JOIN sources USING (source_id)
LEFT JOIN decisions USING (clip_id)
LEFT JOIN captions USING (clip_id)
LEFT JOIN written USING (clip_id)
WHERE starts_with(clips.clip_id, $clip)
ORDER BY clips.clip_id
