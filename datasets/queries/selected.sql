-- The best pairs of each prompt: largest margin first, ties by the ordinal of the chosen, then of the rejected side.
-- Shape is checked afterwards, on the selected pairs, as in the published ranking: the aspect ratio (height / width) of
-- the side with fewer pixels (the rejected one if equal) lies strictly between the bounds, and the longer side has at
-- most $max_length_ratio times the frames of the shorter.
-- In: temporary tables ordered_pairs, eligible and candidate_index; $min_margin, $max_pairs, $min_aspect, $max_aspect,
-- $max_length_ratio; {margins} = a difference per dimension. 
-- Out: temporary table selected; fault is NULL where the pair is kept.
CREATE OR REPLACE TEMP TABLE selected AS
WITH best AS (
    SELECT *, row_number() OVER (PARTITION BY prompt_id ORDER BY margin_total DESC, chosen, rejected) AS rank
    FROM ordered_pairs
    WHERE margin_total >= $min_margin
    QUALIFY rank <= $max_pairs
),
with_margins AS (
    SELECT
        best.*,
        {margins}
    FROM best
    JOIN eligible AS chosen ON chosen.ordinal = best.chosen
    JOIN eligible AS rejected ON rejected.ordinal = best.rejected
),
with_shapes AS (
    SELECT
        with_margins.*,
        CASE WHEN chosen.height_px * chosen.width_px < rejected.height_px * rejected.width_px
            THEN chosen.height_px / chosen.width_px
            ELSE rejected.height_px / rejected.width_px
        END AS aspect_ratio,
        greatest(chosen.num_frames, rejected.num_frames) / least(chosen.num_frames, rejected.num_frames)
            AS length_ratio
    FROM with_margins
    JOIN candidate_index AS chosen ON chosen.rowid = with_margins.chosen
    JOIN candidate_index AS rejected ON rejected.rowid = with_margins.rejected
)
SELECT
    *,
    CASE
        WHEN NOT (aspect_ratio > $min_aspect AND aspect_ratio < $max_aspect) THEN 'shape'
        WHEN length_ratio > $max_length_ratio THEN 'length'
    END AS fault
FROM with_shapes
