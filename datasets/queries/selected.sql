-- The best pairs of every prompt: largest margin first, ties by the place of the chosen, then of the rejected side.
-- Shape is looked at afterwards, on the pairs that were selected, as the original ranking does: the aspect ratio
-- (height / width) of the side with fewer pixels (the rejected one if equal) lies strictly between the bounds, and the
-- longer side has at most $max_length_ratio times the frames of the shorter.
-- In: temporary tables dominating and roster; $min_margin, $max_pairs, $min_aspect, $max_aspect, $max_length_ratio.
-- Out: temporary table selected; fault is NULL where the pair is kept.
CREATE OR REPLACE TEMP TABLE selected AS
WITH best AS (
    SELECT *, row_number() OVER (PARTITION BY prompt_id ORDER BY margin_total DESC, chosen, rejected) AS rank
    FROM dominating
    WHERE margin_total >= $min_margin
    QUALIFY rank <= $max_pairs
),
shaped AS (
    SELECT
        best.*,
        CASE WHEN chosen.height_px * chosen.width_px < rejected.height_px * rejected.width_px
            THEN chosen.height_px / chosen.width_px
            ELSE rejected.height_px / rejected.width_px
        END AS aspect_ratio,
        greatest(chosen.num_frames, rejected.num_frames) / least(chosen.num_frames, rejected.num_frames)
            AS length_ratio
    FROM best
    JOIN roster AS chosen ON chosen.rowid = best.chosen
    JOIN roster AS rejected ON rejected.rowid = best.rejected
)
SELECT
    *,
    CASE
        WHEN NOT (aspect_ratio > $min_aspect AND aspect_ratio < $max_aspect) THEN 'shape'
        WHEN length_ratio > $max_length_ratio THEN 'length'
    END AS fault
FROM shaped
