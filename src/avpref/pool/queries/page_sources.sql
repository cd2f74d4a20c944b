-- The sources of a pool with their properties, their use and the number of their clips, for pages.
-- In: views sources, recordings, clips, decisions. Out: one row per source, in the order of places.
SELECT sources.source_id, regexp_extract(coalesce(nullif(sources.member, ''), sources.uri), '[^/]*$') AS source,
       CASE WHEN sources.status <> 'ok' THEN 'refused' WHEN recordings.is_used THEN 'used' ELSE 'left out' END AS state,
       coalesce(nullif(sources.reason, ''), recordings.reason, '') AS reason, coalesce(sources_kept.num_clips, 0) AS clips,
       coalesce(sources_kept.num_kept, 0) AS kept, sources.duration_s, sources.height_px, sources.width_px, sources.fps_hz,
       sources.is_variable_rate, sources.rotation_deg, sources.video_codec, sources.audio_codec, sources.sample_rate_hz,
       sources.num_channels, sources.container, sources.num_bytes, recordings.group_id, recordings.duplicate_of,
       sources.uri, sources.member, sources.sha256
FROM sources
LEFT JOIN recordings USING (source_id)
LEFT JOIN (
    SELECT source_id, count(*) AS num_clips, count(*) FILTER (decisions.is_kept) AS num_kept
    FROM clips
    LEFT JOIN decisions USING (clip_id)
    WHERE clips.status = 'ok'
    GROUP BY source_id
) AS sources_kept USING (source_id)
ORDER BY sources.uri, sources."offset"
