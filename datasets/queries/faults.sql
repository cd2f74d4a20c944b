-- Counts of mistakes in the inputs that make a selection impossible; all zero in valid tables.
-- In: temporary tables candidate_index and score_matrix, view prompts. Out: one row.
SELECT
    (SELECT count(*) - count(DISTINCT candidate_id) FROM candidate_index) AS doubled_candidates,
    (SELECT count(*) FROM score_matrix WHERE num_rows > num_metrics) AS doubled_scores,
    (SELECT count(*) FROM score_matrix WHERE ordinal IS NULL) AS orphan_scores,
    (SELECT count(*) - count(DISTINCT prompt_id) FROM prompts) AS doubled_prompts,
    (
        SELECT count(*) FROM candidate_index ANTI JOIN prompts USING (prompt_id)
        WHERE EXISTS (SELECT 1 FROM prompts)
    ) AS orphan_candidates
