-- Mistakes in the inputs that no selection can be made of, counted; all zero in good tables.
-- In: temporary tables roster and board, view prompts. Out: one row.
SELECT
    (SELECT count(*) - count(DISTINCT candidate_id) FROM roster) AS doubled_candidates,
    (SELECT count(*) FROM board WHERE num_rows > num_metrics) AS doubled_scores,
    (SELECT count(*) FROM board WHERE ordinal IS NULL) AS orphan_scores,
    (SELECT count(*) - count(DISTINCT prompt_id) FROM prompts) AS doubled_prompts,
    (
        SELECT count(*) FROM roster ANTI JOIN prompts USING (prompt_id)
        WHERE EXISTS (SELECT 1 FROM prompts)
    ) AS orphan_candidates
