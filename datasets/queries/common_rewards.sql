-- The rewards on which all strategies are compared: normalised micro averages, ground truth included.
-- In: temporary table candidate_rewards; {dimensions} = its columns. 
-- Out: temporary tables common_rewards, and selected_by_strategy without rows.
CREATE OR REPLACE TEMP TABLE common_rewards AS
SELECT ordinal, {dimensions} FROM candidate_rewards;

CREATE OR REPLACE TEMP TABLE selected_by_strategy (
    position INTEGER, strategy VARCHAR, prompt_id VARCHAR, chosen BIGINT, rejected BIGINT
)
