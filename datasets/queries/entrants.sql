-- Candidates that may enter a pair: those with a standing, of prompts that are trained on.
-- In: temporary table standing, view prompts. Out: temporary table entrants.
CREATE OR REPLACE TEMP TABLE entrants AS
SELECT standing.*
FROM standing
LEFT JOIN prompts ON prompts.prompt_id = standing.prompt_id
WHERE coalesce(prompts.split, 'train') = 'train'
