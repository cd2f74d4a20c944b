-- Candidates that may be in a pair: those with rewards, of prompts in the training split.
-- In: temporary table candidate_rewards, view prompts. Out: temporary table eligible.
CREATE OR REPLACE TEMP TABLE eligible AS
SELECT candidate_rewards.*
FROM candidate_rewards
LEFT JOIN prompts ON prompts.prompt_id = candidate_rewards.prompt_id
WHERE coalesce(prompts.split, 'train') = 'train'
