-- Rows of sealed files in which a column has one of the given values.
-- Files may have different columns: a missing one is null.
-- In: $files = Parquet files of one table; $values = a list; {column}; {columns}. Out: the columns, and filename.
SELECT {columns}, filename
FROM read_parquet($files, filename = true, hive_partitioning = false, union_by_name = true)
WHERE list_contains($values, {column})
