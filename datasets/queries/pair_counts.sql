-- Numbers of pairs, prompts and clips of a sealed version.
-- In: $files = Parquet files of table pairs. Out: one row: pairs, prompts, clips, ground_truth (clips that are).
WITH pairs AS (FROM read_parquet($files, hive_partitioning = false, union_by_name = false)),
clips AS (
    SELECT chosen AS id, chosen_origin AS origin FROM pairs
    UNION
    SELECT rejected, rejected_origin FROM pairs
)
SELECT
    (SELECT count(*) FROM pairs) AS pairs,
    (SELECT count(DISTINCT prompt_id) FROM pairs) AS prompts,
    count(*) AS clips,
    count(*) FILTER (WHERE origin = 'ground_truth') AS ground_truth
FROM clips
