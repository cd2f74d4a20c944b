-- Note which pairs a strategy selects.
-- In: temporary table selected; $place, $strategy. Out: rows added to temporary table picks.
INSERT INTO picks
SELECT $place, $strategy, prompt_id, chosen, rejected FROM selected WHERE fault IS NULL
