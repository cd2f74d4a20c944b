-- The rewards of every admitted candidate that has all configured scores.
-- In: temporary tables candidate_rewards and candidate_index; $strategy, $norm_id; {rewards} = the
-- columns of the dimensions. Out: rows of table rewards.
SELECT
    candidate_index.candidate_id,
    candidate_index.prompt_id,
    {rewards},
    $strategy AS strategy,
    $norm_id AS norm_id
FROM candidate_rewards
JOIN candidate_index ON candidate_index.rowid = candidate_rewards.ordinal
ORDER BY candidate_rewards.ordinal
