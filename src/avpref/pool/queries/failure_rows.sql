-- The failures of thresholds, each clip's in the order of the filters.
-- In: table found_failures. Out: clip_id, filter, reason.
SELECT clip_id, filter, reason FROM found_failures ORDER BY clip_id, ordinal
