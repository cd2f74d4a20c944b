-- Candidate ids and clip hashes of one sealed file, for the id index.
-- In: $file = one Parquet file of table candidates. Out: candidate_id, sha256.
SELECT candidate_id, sha256 FROM read_parquet($file)
