-- The pairs that contain one of the given clips, over many runs. Reads only the id columns.
-- In: $files = Parquet files of table pairs; $ids = ids of candidates. Out: filename, pair_id, chosen, rejected.
SELECT filename, pair_id, chosen, rejected
FROM read_parquet($files, filename = true, hive_partitioning = false, union_by_name = false)
WHERE list_contains($ids, chosen) OR list_contains($ids, rejected)
