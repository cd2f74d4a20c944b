-- The measures of the written clips. In: views all_measures, written. Out: clip_id, measure, value.
SELECT clip_id, measure, value
FROM all_measures
WHERE status = 'ok' AND value IS NOT NULL AND clip_id IN (SELECT clip_id FROM written)
ORDER BY clip_id, measure
