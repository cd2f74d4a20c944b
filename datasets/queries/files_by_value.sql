-- Sealed files in which a column has one of the given values. Reads only that column.
-- In: $files = Parquet files of one table; $values = a list; {column}. Out: filename.
SELECT DISTINCT filename
FROM read_parquet($files, filename = true, hive_partitioning = false, union_by_name = false)
WHERE list_contains($values, {column})
