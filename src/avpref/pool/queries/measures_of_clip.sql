-- The measures of clips whose ids have a beginning. In: view all_measures; $clip. Out: one row per measure.
SELECT clip_id, measure, value, unit, status, reason, scorer
FROM all_measures
WHERE starts_with(clip_id, $clip) AND len(vector) = 0
ORDER BY clip_id, scorer, measure
