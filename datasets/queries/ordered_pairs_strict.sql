-- Strategy "strict": chosen is strictly better in every configured metric that has weight. margin_total = sum
-- of the margins.
-- In: temporary tables eligible and normalised_scores;
-- {total} = the sum, from the left; {is_better} = a comparison per metric.
-- Out: temporary table ordered_pairs.
CREATE OR REPLACE TEMP TABLE ordered_pairs AS
WITH scored AS (
    SELECT eligible.*, normalised_scores.* EXCLUDE (ordinal, prompt_id)
    FROM eligible
    JOIN normalised_scores ON normalised_scores.ordinal = eligible.ordinal
)
SELECT
    chosen.prompt_id,
    chosen.ordinal AS chosen,
    rejected.ordinal AS rejected,
    {total} AS margin_total
FROM scored AS chosen
JOIN scored AS rejected ON chosen.prompt_id = rejected.prompt_id AND {is_better}
