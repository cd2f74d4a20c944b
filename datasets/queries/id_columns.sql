-- Ids of candidates and hashes of their clips, to be indexed.
-- In: $file = one Parquet file of table candidates. Out: candidate_id, sha256.
SELECT candidate_id, sha256 FROM read_parquet($file)
