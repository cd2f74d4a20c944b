-- One row per candidate with one column per configured metric: its raw score, NULL unless status is ok and the value
-- is finite.
-- In: temporary table candidate_index, view scores; $metrics = names of the configured metrics; {scores} = a maximum
-- per metric. Out: temporary table score_matrix.
-- Rows of other metrics are ignored. A score without candidate gives a row without ordinal; a doubled score gives
-- num_rows above num_metrics. faults.sql counts both.
CREATE OR REPLACE TEMP TABLE score_matrix AS
WITH numbers AS (
    SELECT candidate_id, metric, bit, CASE WHEN status = 'ok' AND isfinite(value) THEN value END AS value
    FROM scores
    JOIN (SELECT unnest($metrics) AS metric, 1 << generate_subscripts($metrics, 1) AS bit) USING (metric)
),
wide AS (
    SELECT
        candidate_id,
        {scores},
        count(value) AS num_usable,
        count(*) AS num_rows,
        bit_count(bit_or(bit)) AS num_metrics
    FROM numbers
    GROUP BY candidate_id
)
SELECT
    candidate_index.rowid AS ordinal,
    candidate_index.prompt_id,
    wide.* EXCLUDE (candidate_id, num_usable),
    coalesce(wide.num_usable, 0) AS num_usable
FROM candidate_index
FULL JOIN wide ON wide.candidate_id = candidate_index.candidate_id
