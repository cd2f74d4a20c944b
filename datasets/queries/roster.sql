-- Candidates in canonical order: prompt, index, id. Row numbers of this table are the ordinals that every later step
-- counts with, so "first" means the same whatever the order of the files was.
-- In: view candidates. Out: temporary table roster.
CREATE OR REPLACE TEMP TABLE roster AS
SELECT candidate_id, prompt_id, "index", origin, num_frames, height_px, width_px
FROM candidates
ORDER BY prompt_id, "index", candidate_id
