-- Strategy "strict": chosen is strictly better in every configured metric. margin_total = sum of the three margins.
-- In: temporary tables eligible and normalised_scores; {is_better} = a comparison per metric.
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
    ((chosen.video - rejected.video) + (chosen.audio - rejected.audio)) + (chosen.av - rejected.av) AS margin_total
FROM scored AS chosen
JOIN scored AS rejected ON chosen.prompt_id = rejected.prompt_id AND {is_better}
