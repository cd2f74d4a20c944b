-- Rewards of evaluation clips in the order of their raw scores.
-- In: temporary table candidate_rewards. Out: one column per dimension.
SELECT video, audio, av FROM candidate_rewards ORDER BY ordinal
