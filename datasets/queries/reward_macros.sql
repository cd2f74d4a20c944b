-- The parts of the reward formula that apply to one score. See avpref.datasets.reward_formula.
--   normalised(score, mean, std, sign): sign * ((score - mean) / std), so that higher is better; 0 where the metric has
--     no variance (std = 0); NULL where there is no score.
--   mean_rank(value): rank among all rows, ascending; equal values share the mean of their ranks; NULLs have no rank.
--   worst_if_missing(value, prompt_id): the smallest value of all rows in place of a NULL, unless no row of the prompt
--     has a value.
-- In: nothing. Out: temporary macros.
CREATE OR REPLACE TEMP MACRO normalised(score, mean, std, sign) AS
    CASE WHEN std > 0 THEN sign * ((score - mean) / std) WHEN score IS NOT NULL THEN 0.0 END;

CREATE OR REPLACE TEMP MACRO mean_rank(value) AS
    CASE WHEN value IS NOT NULL THEN (
        rank() OVER (ORDER BY value NULLS LAST RANGE UNBOUNDED PRECEDING)
        + count(*) OVER (ORDER BY value NULLS LAST RANGE UNBOUNDED PRECEDING)
    ) / 2 END;

CREATE OR REPLACE TEMP MACRO worst_if_missing(value, prompt_id) AS
    coalesce(value, CASE WHEN count(value) OVER (PARTITION BY prompt_id) > 0 THEN min(value) OVER () END)
