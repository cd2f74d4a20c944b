-- Distinct values of a column that begin with a prefix.
-- In: $files = Parquet files of one table; $beginning; {column}. Out: the column's distinct values.
SELECT DISTINCT {column}
FROM read_parquet($files, hive_partitioning = false, union_by_name = false)
WHERE starts_with({column}, $beginning)
ORDER BY 1
