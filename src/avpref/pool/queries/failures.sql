-- Each clip and each filter that it fails, with the reason.
-- In: views clips, all_measures; table thresholds. Out: table found_failures.
CREATE OR REPLACE TABLE found_failures AS
SELECT DISTINCT
    clips.clip_id,
    thresholds.filter,
    thresholds.ordinal,
    CASE
        WHEN all_measures.value IS NULL
            THEN thresholds.measure || ' has no value: ' || coalesce(nullif(all_measures.reason, ''), 'not measured')
        WHEN all_measures.value < thresholds.low
            THEN printf('%s %.6g, less than %.6g', thresholds.measure, all_measures.value, thresholds.low)
        ELSE printf('%s %.6g, more than %.6g', thresholds.measure, all_measures.value, thresholds.high)
    END AS reason
FROM clips
CROSS JOIN thresholds
LEFT JOIN all_measures ON all_measures.clip_id = clips.clip_id AND all_measures.measure = thresholds.measure
WHERE clips.status = 'ok'
  AND ((all_measures.value IS NULL AND NOT thresholds.keeps_missing)
       OR all_measures.value < thresholds.low
       OR all_measures.value > thresholds.high)
