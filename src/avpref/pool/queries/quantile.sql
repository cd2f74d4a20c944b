-- The value below which a share of the valid values of a measure lies.
-- In: view all_measures; $measure, $share. Out: one number, null without values.
SELECT quantile_cont(value, $share) FROM all_measures WHERE measure = $measure AND status = 'ok' AND value IS NOT NULL
