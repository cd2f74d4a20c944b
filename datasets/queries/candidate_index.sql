-- Candidates in canonical order: prompt, index, id. The row numbers of this table are the ordinals that later queries
-- use, so that ties are broken alike whatever the order of the files.
-- In: view candidates. Out: temporary table candidate_index.
CREATE OR REPLACE TEMP TABLE candidate_index AS
SELECT candidate_id, prompt_id, "index", origin, num_frames, height_px, width_px
FROM candidates
ORDER BY prompt_id, "index", candidate_id
