-- The scorers of a sealed version, with licence terms.
-- In: $files = Parquet files of table scores. Out: scorer, fingerprint, licence, commercial_use, is_meaningful.
SELECT DISTINCT scorer, fingerprint, licence, commercial_use, is_meaningful
FROM read_parquet($files, hive_partitioning = false, union_by_name = false)
ORDER BY scorer, fingerprint
