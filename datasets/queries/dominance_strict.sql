-- Strict dominance: chosen is strictly better on every configured metric. margin_total = sum of the three margins.
-- A metric that is not configured is NULL on both sides and decides nothing; entrants have all the others.
-- In: temporary tables entrants and contributions. Out: temporary table dominating, one row per ordered pair.
CREATE OR REPLACE TEMP TABLE dominating AS
WITH sides AS (
    SELECT entrants.*, contributions.* EXCLUDE (ordinal, prompt_id, num_usable)
    FROM entrants
    JOIN contributions ON contributions.ordinal = entrants.ordinal
)
SELECT
    chosen.prompt_id,
    chosen.ordinal AS chosen,
    rejected.ordinal AS rejected,
    chosen.video - rejected.video AS margin_video,
    chosen.audio - rejected.audio AS margin_audio,
    chosen.av - rejected.av AS margin_av,
    ((chosen.video - rejected.video) + (chosen.audio - rejected.audio)) + (chosen.av - rejected.av) AS margin_total
FROM sides AS chosen
JOIN sides AS rejected
    ON chosen.prompt_id = rejected.prompt_id
    AND coalesce(chosen.visual_quality > rejected.visual_quality, true)
    AND coalesce(chosen.motion_quality > rejected.motion_quality, true)
    AND coalesce(chosen.text_video > rejected.text_video, true)
    AND coalesce(chosen.audio_quality > rejected.audio_quality, true)
    AND coalesce(chosen.text_audio > rejected.text_audio, true)
    AND coalesce(chosen.audio_video > rejected.audio_video, true)
    AND coalesce(chosen.desync > rejected.desync, true)
