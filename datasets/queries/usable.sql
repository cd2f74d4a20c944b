-- How many candidates have a usable number, per metric.
-- In: temporary table board. Out: one row, one column per metric.
SELECT
    count(visual_quality) AS visual_quality,
    count(motion_quality) AS motion_quality,
    count(text_video) AS text_video,
    count(audio_quality) AS audio_quality,
    count(text_audio) AS text_audio,
    count(audio_video) AS audio_video,
    count(desync) AS desync
FROM board
