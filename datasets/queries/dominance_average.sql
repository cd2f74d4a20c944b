-- Modality-agnostic comparison (Table 4 of the paper): chosen has the higher mean over all metrics, so the margin of a
-- dimension may be negative. margin_total = difference of the two means.
-- In: temporary table entrants. Out: temporary table dominating, one row per ordered pair.
CREATE OR REPLACE TEMP TABLE dominating AS
SELECT
    chosen.prompt_id,
    chosen.ordinal AS chosen,
    rejected.ordinal AS rejected,
    chosen.video - rejected.video AS margin_video,
    chosen.audio - rejected.audio AS margin_audio,
    chosen.av - rejected.av AS margin_av,
    chosen.overall - rejected.overall AS margin_total
FROM entrants AS chosen
JOIN entrants AS rejected ON chosen.prompt_id = rejected.prompt_id AND chosen.overall > rejected.overall
