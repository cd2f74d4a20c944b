-- Counts and hours after each stage before the filters, and the clips that the filters decided about.
-- In: views sources, recordings, clips, measures, decisions, written. Out: stage, items, hours, in order.
SELECT 1 AS ordinal, 'readable' AS stage, count(*) AS items, coalesce(sum(duration_s), 0) / 3600.0 AS hours
FROM sources WHERE status = 'ok'
UNION ALL
SELECT 2, 'distinct', count(*), coalesce(sum(sources.duration_s), 0) / 3600.0
FROM recordings JOIN sources USING (source_id) WHERE recordings.is_used
UNION ALL
SELECT 3, 'clips', count(*), coalesce(sum(end_s - start_s), 0) / 3600.0 FROM clips WHERE status = 'ok'
UNION ALL
SELECT 4, 'measured', count(*), coalesce(sum(end_s - start_s), 0) / 3600.0
FROM clips WHERE status = 'ok' AND clip_id IN (SELECT clip_id FROM measures)
UNION ALL
SELECT 5, 'kept', count(*), coalesce(sum(clips.end_s - clips.start_s), 0) / 3600.0
FROM decisions JOIN clips USING (clip_id) WHERE decisions.is_kept
UNION ALL
SELECT 6, 'written', count(*), coalesce(sum(duration_s), 0) / 3600.0 FROM written
ORDER BY ordinal
