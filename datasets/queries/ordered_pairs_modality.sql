-- Strategy "modality": chosen is strictly better in every dimension. margin_total = sum of the margins.
-- In: temporary table eligible; {total} = the sum, from the left; {is_better} = a comparison per dimension.
-- Out: temporary table ordered_pairs.
CREATE OR REPLACE TEMP TABLE ordered_pairs AS
SELECT
    chosen.prompt_id,
    chosen.ordinal AS chosen,
    rejected.ordinal AS rejected,
    {total} AS margin_total
FROM eligible AS chosen
JOIN eligible AS rejected
    ON chosen.prompt_id = rejected.prompt_id
    AND {is_better}
