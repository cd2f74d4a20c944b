-- Rewards: the mean of a dimension's configured metrics, and of all of them ("overall"). Terms are added in this order,
-- whatever the number of threads; a metric that is not configured adds 0 and is not counted.
-- Candidates that lack a configured metric have no standing.
-- In: temporary table grades; $num_video, $num_audio, $num_av, $num_metrics. Out: temporary table standing.
CREATE OR REPLACE TEMP TABLE standing AS
WITH filled AS (
    SELECT
        ordinal,
        prompt_id,
        coalesce(visual_quality, 0.0) AS visual_quality,
        coalesce(motion_quality, 0.0) AS motion_quality,
        coalesce(text_video, 0.0) AS text_video,
        coalesce(audio_quality, 0.0) AS audio_quality,
        coalesce(text_audio, 0.0) AS text_audio,
        coalesce(audio_video, 0.0) AS audio_video,
        coalesce(desync, 0.0) AS desync
    FROM grades
    WHERE num_usable = $num_metrics
)
SELECT
    ordinal,
    prompt_id,
    ((visual_quality + motion_quality) + text_video) / $num_video AS video,
    (audio_quality + text_audio) / $num_audio AS audio,
    (audio_video + desync) / $num_av AS av,
    ((((((visual_quality + motion_quality) + text_video) + audio_quality) + text_audio) + audio_video) + desync)
        / $num_metrics AS overall
FROM filled
