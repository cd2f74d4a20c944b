-- Rewards of evaluation clips in the order of their raw scores.
-- In: temporary table candidate_rewards; {dimensions} = its columns. Out: one column per dimension.
SELECT {dimensions} FROM candidate_rewards ORDER BY ordinal
