-- Every configured score that a candidate lacks, and the reason: missing (no row), skipped or quarantined (the row's
-- status), not_finite (NaN or infinite).
-- In: temporary tables candidate_index and score_matrix, view scores; $metrics, $num_metrics.
-- Out: rows of table excluded.
WITH lacking AS (
    SELECT candidate_index.candidate_id, candidate_index.prompt_id, score_matrix.ordinal, wanted.metric, wanted.position
    FROM score_matrix
    JOIN candidate_index ON candidate_index.rowid = score_matrix.ordinal
    CROSS JOIN (SELECT unnest($metrics) AS metric, generate_subscripts($metrics, 1) AS position) AS wanted
    WHERE score_matrix.num_usable < $num_metrics
)
SELECT
    lacking.candidate_id,
    lacking.prompt_id,
    lacking.metric,
    CASE
        WHEN scores.candidate_id IS NULL THEN 'missing'
        WHEN scores.status <> 'ok' THEN scores.status
        ELSE 'not_finite'
    END AS reason,
    coalesce(scores.reason, '') AS detail
FROM lacking
LEFT JOIN scores ON scores.candidate_id = lacking.candidate_id AND scores.metric = lacking.metric
WHERE NOT coalesce(scores.status = 'ok' AND isfinite(scores.value), false)
ORDER BY lacking.ordinal, lacking.position
