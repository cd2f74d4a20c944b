-- Which sealed files have one of some values in a column? Reads that column alone.
-- In: $files = Parquet files of one table; $values = a list; {column}. Out: filename.
SELECT DISTINCT filename
FROM read_parquet($files, filename = true, hive_partitioning = false, union_by_name = false)
WHERE list_contains($values, {column})
