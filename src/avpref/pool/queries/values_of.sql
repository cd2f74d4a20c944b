-- The valid values of a measure. In: view all_measures; $measure. Out: clip_id, value.
SELECT clip_id, value FROM all_measures WHERE measure = $measure AND status = 'ok' AND value IS NOT NULL
