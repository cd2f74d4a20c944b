-- Rewards: the mean of the metrics of each dimension, and of all metrics ("overall"). Terms are added in the order of
-- the metrics, starting from 0, whatever the number of threads; a reward is therefore never negative zero.
-- In: temporary table normalised_scores; {values} = each metric's normalised score or its rank; {filled} = each metric
-- after the policy for missing scores; {rewards} = the means; {kept} = which rows have rewards.
-- Out: temporary table candidate_rewards (ordinal, prompt_id, one column per dimension, overall).
CREATE OR REPLACE TEMP TABLE candidate_rewards AS
WITH normalised_or_ranked AS (SELECT ordinal, prompt_id, {values} FROM normalised_scores),
filled AS (SELECT ordinal, prompt_id, {filled} FROM normalised_or_ranked)
SELECT ordinal, prompt_id, {rewards}
FROM filled
WHERE {kept}
