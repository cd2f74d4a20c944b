-- Each measure: values, clips without one, quantiles, mean time. In: view all_measures. Out: one row per measure.
SELECT
    measure, any_value(unit) AS unit, any_value(scorer) AS scorer,
    count(*) FILTER (value IS NOT NULL) AS clips, count(*) FILTER (value IS NULL) AS without_value,
    quantile_cont(value, 0.05) AS q05, quantile_cont(value, 0.5) AS q50, quantile_cont(value, 0.95) AS q95,
    avg(elapsed_ms) AS ms
FROM all_measures
WHERE len(vector) = 0
GROUP BY measure
ORDER BY any_value(scorer), measure
