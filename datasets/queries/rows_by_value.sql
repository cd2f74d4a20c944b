-- Rows of sealed files that have one of some values in a column.
-- In: $files = Parquet files of one table; $values = a list; {column}; {columns}. Out: the columns, and filename.
SELECT {columns}, filename
FROM read_parquet($files, filename = true, hive_partitioning = false, union_by_name = false)
WHERE list_contains($values, {column})
