-- Pairs with the text and the category of their prompts, in the order of table pairs.
-- In: tables pairs, prompts.
-- Out: table pair_rows.
CREATE TABLE pair_rows AS
SELECT pairs.*, prompts.text AS prompt, prompts.taxonomy
FROM pairs LEFT JOIN prompts USING (prompt_id)
ORDER BY pairs.rowid
