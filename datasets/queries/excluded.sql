-- Every number that a candidate lacks and the configuration asks for, and why.
-- In: temporary tables roster and board, view scores; $metrics, $num_metrics. Out: rows of table excluded.
WITH lacking AS (
    SELECT roster.candidate_id, roster.prompt_id, board.ordinal, wanted.metric, wanted.place
    FROM board
    JOIN roster ON roster.rowid = board.ordinal
    CROSS JOIN (SELECT unnest($metrics) AS metric, generate_subscripts($metrics, 1) AS place) AS wanted
    WHERE board.num_usable < $num_metrics
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
ORDER BY lacking.ordinal, lacking.place
