-- Clips and hours that each filter removes: as the first one that a clip fails; if it were the only filter; as the only one.
-- In: views clips, decisions, failures. Out: filter, removed, hours, alone, only, hours_alone.
SELECT
    failures.filter,
    count(*) FILTER (decisions.filter = failures.filter) AS removed,
    coalesce(sum(clips.end_s - clips.start_s) FILTER (decisions.filter = failures.filter), 0) / 3600.0 AS hours,
    count(*) AS alone,
    coalesce(sum(clips.end_s - clips.start_s), 0) / 3600.0 AS hours_alone,
    count(*) FILTER (decisions.failed_filters = 1) AS only
FROM failures
JOIN decisions USING (clip_id)
JOIN clips USING (clip_id)
GROUP BY failures.filter
