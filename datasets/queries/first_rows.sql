-- The first rows of a sealed table version, in its order.
-- In: $files = Parquet files of one table; $limit. Out: the table's columns.
SELECT *
FROM read_parquet($files, hive_partitioning = false, union_by_name = false)
LIMIT $limit
