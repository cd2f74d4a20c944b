-- What the averages are taken of, "macro": ranks over all admitted candidates, ascending; ties share the mean of their
-- ranks, half the sum of the lowest rank and the number of values up to and with this one. NULLs take no part.
-- In: temporary table contributions. Out: temporary table grades.
CREATE OR REPLACE TEMP TABLE grades AS
SELECT
    ordinal,
    prompt_id,
    num_usable,
    CASE WHEN visual_quality IS NOT NULL THEN (rank() OVER by_visual_quality + count(*) OVER by_visual_quality) / 2 END
        AS visual_quality,
    CASE WHEN motion_quality IS NOT NULL THEN (rank() OVER by_motion_quality + count(*) OVER by_motion_quality) / 2 END
        AS motion_quality,
    CASE WHEN text_video IS NOT NULL THEN (rank() OVER by_text_video + count(*) OVER by_text_video) / 2 END
        AS text_video,
    CASE WHEN audio_quality IS NOT NULL THEN (rank() OVER by_audio_quality + count(*) OVER by_audio_quality) / 2 END
        AS audio_quality,
    CASE WHEN text_audio IS NOT NULL THEN (rank() OVER by_text_audio + count(*) OVER by_text_audio) / 2 END
        AS text_audio,
    CASE WHEN audio_video IS NOT NULL THEN (rank() OVER by_audio_video + count(*) OVER by_audio_video) / 2 END
        AS audio_video,
    CASE WHEN desync IS NOT NULL THEN (rank() OVER by_desync + count(*) OVER by_desync) / 2 END
        AS desync
FROM contributions
WINDOW
    by_visual_quality AS (ORDER BY visual_quality NULLS LAST RANGE UNBOUNDED PRECEDING),
    by_motion_quality AS (ORDER BY motion_quality NULLS LAST RANGE UNBOUNDED PRECEDING),
    by_text_video AS (ORDER BY text_video NULLS LAST RANGE UNBOUNDED PRECEDING),
    by_audio_quality AS (ORDER BY audio_quality NULLS LAST RANGE UNBOUNDED PRECEDING),
    by_text_audio AS (ORDER BY text_audio NULLS LAST RANGE UNBOUNDED PRECEDING),
    by_audio_video AS (ORDER BY audio_video NULLS LAST RANGE UNBOUNDED PRECEDING),
    by_desync AS (ORDER BY desync NULLS LAST RANGE UNBOUNDED PRECEDING)
