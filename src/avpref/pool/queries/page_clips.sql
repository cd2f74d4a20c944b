-- The clips of a pool with their origin, decision and one column per measure, for pages; of clips with equal ids the first.
-- In: views clips, listed, sources, decisions, captions, written, all_measures; columns: the measures, as aggregates.
-- Out: one row per clip, in the order of sources and time.
WITH numbers AS (
    SELECT clip_id{columns}
    FROM all_measures
    WHERE len(vector) = 0
    GROUP BY clip_id
)
SELECT clips.clip_id, regexp_extract(coalesce(nullif(listed.member, ''), listed.uri), '[^/]*$') AS source, clips.start_s,
       clips.end_s - clips.start_s AS length_s,
       CASE WHEN clips.status <> 'ok' THEN 'no clip' WHEN decisions.is_kept THEN 'kept'
            ELSE coalesce(decisions.filter, 'not decided') END AS decision,
       coalesce(nullif(decisions.reason, ''), clips.reason) AS reason, coalesce(captions.text, clips.text) AS text,
       coalesce(captions.visual, '') AS visual, coalesce(captions.auditory, '') AS auditory,
       coalesce(decisions.category, '') AS category, clips.group_id, clips.recording_id, clips.source_id,
       clips.first_frame, clips.end_frame, listed.uri, listed.member, listed."offset", listed.num_bytes, listed.stamp,
       sources.height_px AS source_height_px, sources.width_px AS source_width_px, sources.fps_hz AS source_fps_hz,
       coalesce(written.path, '') AS file, numbers.* EXCLUDE (clip_id)
FROM clips
JOIN listed USING (source_id)
JOIN sources USING (source_id)
LEFT JOIN decisions USING (clip_id)
LEFT JOIN captions USING (clip_id)
LEFT JOIN written USING (clip_id)
LEFT JOIN numbers USING (clip_id)
QUALIFY row_number() OVER (PARTITION BY clips.clip_id ORDER BY listed.uri, listed."offset") = 1
ORDER BY listed.uri, listed."offset", clips.start_s, clips.clip_id
