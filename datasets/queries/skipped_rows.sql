-- Prompts without a pair, with their texts and the number of their candidates.
-- In: tables skipped, prompts, candidates.
-- Out: table skipped_rows.
CREATE TABLE skipped_rows AS
SELECT skipped.*, prompts.text AS prompt, counts.candidates, prompts.taxonomy
FROM skipped
LEFT JOIN prompts USING (prompt_id)
LEFT JOIN (SELECT prompt_id, count(*) AS candidates FROM candidates GROUP BY prompt_id) AS counts USING (prompt_id)
