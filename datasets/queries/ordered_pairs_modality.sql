-- Strategy "modality": chosen is strictly better in all three dimensions. margin_total = sum of the three margins.
-- In: temporary table eligible. Out: temporary table ordered_pairs.
CREATE OR REPLACE TEMP TABLE ordered_pairs AS
SELECT
    chosen.prompt_id,
    chosen.ordinal AS chosen,
    rejected.ordinal AS rejected,
    ((chosen.video - rejected.video) + (chosen.audio - rejected.audio)) + (chosen.av - rejected.av) AS margin_total
FROM eligible AS chosen
JOIN eligible AS rejected
    ON chosen.prompt_id = rejected.prompt_id
    AND chosen.video > rejected.video
    AND chosen.audio > rejected.audio
    AND chosen.av > rejected.av
