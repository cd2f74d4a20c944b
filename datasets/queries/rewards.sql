-- The rewards of every admitted candidate that has all configured scores.
-- In: temporary tables standing and roster; $strategy, $norm_id. Out: rows of table rewards.
SELECT
    roster.candidate_id,
    roster.prompt_id,
    standing.video,
    standing.audio,
    standing.av,
    $strategy AS strategy,
    $norm_id AS norm_id
FROM standing
JOIN roster ON roster.rowid = standing.ordinal
ORDER BY standing.ordinal
