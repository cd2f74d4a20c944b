-- Add the pairs that one strategy keeps.
-- In: temporary table selected; $position, $strategy. Out: rows added to temporary table selected_by_strategy.
INSERT INTO selected_by_strategy
SELECT $position, $strategy, prompt_id, chosen, rejected FROM selected WHERE fault IS NULL
