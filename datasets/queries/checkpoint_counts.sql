-- Number of candidates that a checkpoint generated, per sealed file.
-- In: $files = Parquet files of table candidates; $checkpoint. Out: filename, candidates.
SELECT filename, count(*) AS candidates
FROM read_parquet($files, filename = true, hive_partitioning = false, union_by_name = false)
WHERE checkpoint_hash = $checkpoint
GROUP BY filename
ORDER BY filename
