-- One row per held-out prompt that was compared: both clips, and policy - reference in every dimension.
-- In: tables evaluations, prompts; "changes" one aggregate per dimension, "total" their sum. Out: table held_out_rows.
CREATE TABLE held_out_rows AS
SELECT *, {total} AS change_total
FROM (
    SELECT
        prompt_id,
        any_value(prompts.text) AS prompt,
        max(candidate_id) FILTER (side = 'reference') AS reference,
        max(candidate_id) FILTER (side = 'policy') AS policy{changes},
        any_value(prompts.taxonomy) AS taxonomy
    FROM evaluations LEFT JOIN prompts USING (prompt_id)
    GROUP BY prompt_id
)
ORDER BY change_total DESC NULLS LAST, prompt_id
