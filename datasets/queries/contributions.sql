-- Scores after direction and normalisation: sign * ((score - mean) / std), higher is better. NULL stays NULL.
-- A metric whose std is 0 contributes 0 for everyone. Without normalisation mean = 0 and std = 1, which changes no bit.
-- Ground truth that the strategy does not admit stops here: it has shaped mean and std, but takes no part in ranks (the
-- original drops it between the two steps).
-- In: temporary tables board and roster; $ground_truth; $mean, $std, $sign = lists in the order of the seven metrics.
-- Out: temporary table contributions.
CREATE OR REPLACE TEMP TABLE contributions AS
SELECT
    board.ordinal,
    board.prompt_id,
    board.num_usable,
    CASE
        WHEN $std[1] > 0 THEN $sign[1] * ((visual_quality - $mean[1]) / $std[1])
        WHEN visual_quality IS NOT NULL THEN 0.0
    END AS visual_quality,
    CASE
        WHEN $std[2] > 0 THEN $sign[2] * ((motion_quality - $mean[2]) / $std[2])
        WHEN motion_quality IS NOT NULL THEN 0.0
    END AS motion_quality,
    CASE
        WHEN $std[3] > 0 THEN $sign[3] * ((text_video - $mean[3]) / $std[3])
        WHEN text_video IS NOT NULL THEN 0.0
    END AS text_video,
    CASE
        WHEN $std[4] > 0 THEN $sign[4] * ((audio_quality - $mean[4]) / $std[4])
        WHEN audio_quality IS NOT NULL THEN 0.0
    END AS audio_quality,
    CASE
        WHEN $std[5] > 0 THEN $sign[5] * ((text_audio - $mean[5]) / $std[5])
        WHEN text_audio IS NOT NULL THEN 0.0
    END AS text_audio,
    CASE
        WHEN $std[6] > 0 THEN $sign[6] * ((audio_video - $mean[6]) / $std[6])
        WHEN audio_video IS NOT NULL THEN 0.0
    END AS audio_video,
    CASE
        WHEN $std[7] > 0 THEN $sign[7] * ((desync - $mean[7]) / $std[7])
        WHEN desync IS NOT NULL THEN 0.0
    END AS desync
FROM board
JOIN roster ON roster.rowid = board.ordinal
WHERE roster.origin <> 'ground_truth' OR $ground_truth
