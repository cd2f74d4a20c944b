-- Candidates that may enter a pair: those with a standing, of prompts that are trained on, and ground truth only where
-- the strategy admits it (it has shaped norm and ranks all the same).
-- In: temporary tables standing and roster, view prompts; $ground_truth. Out: temporary table entrants.
CREATE OR REPLACE TEMP TABLE entrants AS
SELECT standing.*
FROM standing
JOIN roster ON roster.rowid = standing.ordinal
LEFT JOIN prompts ON prompts.prompt_id = standing.prompt_id
WHERE (roster.origin <> 'ground_truth' OR $ground_truth) AND coalesce(prompts.split, 'train') = 'train'
