-- Strategy "average" (Table 4 of the paper): chosen has the higher mean over all metrics, so the margin of one
-- dimension may be negative. margin_total = difference of the two means.
-- In: temporary table eligible. Out: temporary table ordered_pairs.
CREATE OR REPLACE TEMP TABLE ordered_pairs AS
SELECT
    chosen.prompt_id,
    chosen.ordinal AS chosen,
    rejected.ordinal AS rejected,
    chosen.overall - rejected.overall AS margin_total
FROM eligible AS chosen
JOIN eligible AS rejected ON chosen.prompt_id = rejected.prompt_id AND chosen.overall > rejected.overall
