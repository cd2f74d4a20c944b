-- The vectors of a measure. In: view all_measures; $measure. Out: clip_id, vector.
SELECT clip_id, vector FROM all_measures WHERE measure = $measure AND len(vector) > 0
