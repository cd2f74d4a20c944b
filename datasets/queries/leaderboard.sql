-- One row per strategy: how many prompts give a pair, how far apart the sides are in population standard deviations (on
-- the yardstick, so that all rows are comparable), and how often the chosen side is ground truth.
-- Means are taken over ordered lists, so that the number of threads changes no bit.
-- In: temporary tables picks, yardstick, roster; view prompts; $strategies in order. Out: rows of table leaderboard.
WITH known AS (
    SELECT prompt_id FROM prompts WHERE split = 'train'
    UNION ALL
    SELECT DISTINCT prompt_id FROM roster ANTI JOIN prompts USING (prompt_id)
),
listed AS (SELECT unnest($strategies) AS strategy, generate_subscripts($strategies, 1) AS place),
sides AS (
    SELECT
        picks.place,
        picks.prompt_id,
        picks.chosen,
        picks.rejected,
        better.video - worse.video AS video,
        better.audio - worse.audio AS audio,
        better.av - worse.av AS av,
        roster.origin = 'ground_truth' AS is_ground_truth
    FROM picks
    JOIN yardstick AS better ON better.ordinal = picks.chosen
    JOIN yardstick AS worse ON worse.ordinal = picks.rejected
    JOIN roster ON roster.rowid = picks.chosen
)
SELECT
    listed.strategy,
    count(sides.chosen) AS pairs,
    (SELECT count(*) FROM known) AS prompts,
    count(DISTINCT sides.prompt_id) AS prompts_with_pair,
    count(DISTINCT sides.prompt_id) / nullif((SELECT count(*) FROM known), 0) AS prompt_yield,
    list_avg(list(sides.video ORDER BY sides.chosen, sides.rejected)) AS margin_video,
    list_avg(list(sides.audio ORDER BY sides.chosen, sides.rejected)) AS margin_audio,
    list_avg(list(sides.av ORDER BY sides.chosen, sides.rejected)) AS margin_av,
    count(*) FILTER (sides.is_ground_truth) / nullif(count(sides.chosen), 0) AS ground_truth_share
FROM listed
LEFT JOIN sides ON sides.place = listed.place
GROUP BY listed.place, listed.strategy
ORDER BY listed.place
