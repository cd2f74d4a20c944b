-- Modality-aware dominance: chosen is strictly better on all three dimensions. margin_total = sum of the three margins.
-- In: temporary table entrants. Out: temporary table dominating, one row per ordered pair.
CREATE OR REPLACE TEMP TABLE dominating AS
SELECT
    chosen.prompt_id,
    chosen.ordinal AS chosen,
    rejected.ordinal AS rejected,
    chosen.video - rejected.video AS margin_video,
    chosen.audio - rejected.audio AS margin_audio,
    chosen.av - rejected.av AS margin_av,
    ((chosen.video - rejected.video) + (chosen.audio - rejected.audio)) + (chosen.av - rejected.av) AS margin_total
FROM entrants AS chosen
JOIN entrants AS rejected
    ON chosen.prompt_id = rejected.prompt_id
    AND chosen.video > rejected.video
    AND chosen.audio > rejected.audio
    AND chosen.av > rejected.av
