-- One row per candidate with its raw scores side by side; NULL where there is no usable number (status ok and finite).
-- In: temporary table roster, view scores; $metrics = names of the configured metrics. Out: temporary table board.
-- Rows of other metrics are left aside. A score without candidate gives a row without ordinal, a doubled score gives
-- num_rows above num_metrics; faults.sql looks for both.
CREATE OR REPLACE TEMP TABLE board AS
WITH numbers AS (
    SELECT candidate_id, metric, bit, CASE WHEN status = 'ok' AND isfinite(value) THEN value END AS value
    FROM scores
    JOIN (SELECT unnest($metrics) AS metric, 1 << generate_subscripts($metrics, 1) AS bit) USING (metric)
),
wide AS (
    SELECT
        candidate_id,
        max(CASE WHEN metric = 'visual_quality' THEN value END) AS visual_quality,
        max(CASE WHEN metric = 'motion_quality' THEN value END) AS motion_quality,
        max(CASE WHEN metric = 'text_video' THEN value END) AS text_video,
        max(CASE WHEN metric = 'audio_quality' THEN value END) AS audio_quality,
        max(CASE WHEN metric = 'text_audio' THEN value END) AS text_audio,
        max(CASE WHEN metric = 'audio_video' THEN value END) AS audio_video,
        max(CASE WHEN metric = 'desync' THEN value END) AS desync,
        count(value) AS num_usable,
        count(*) AS num_rows,
        bit_count(bit_or(bit)) AS num_metrics
    FROM numbers
    GROUP BY candidate_id
)
SELECT
    roster.rowid AS ordinal,
    roster.prompt_id,
    wide.* EXCLUDE (candidate_id, num_usable),
    coalesce(wide.num_usable, 0) AS num_usable
FROM roster
FULL JOIN wide ON wide.candidate_id = roster.candidate_id
