-- One row per strategy: how many prompts give a pair, the mean margins in population standard deviations (of the common
-- rewards, so that rows can be compared), and how often the chosen side is ground truth.
-- Means are taken over ordered lists, so that the number of threads changes no bit.
-- In: temporary tables selected_by_strategy, common_rewards, candidate_index; view prompts; $strategies in order;
-- {margins} = a difference per dimension; {means} = its mean.
-- Out: rows of table leaderboard.
WITH known AS (
    SELECT prompt_id FROM prompts WHERE split = 'train'
    UNION ALL
    SELECT DISTINCT prompt_id FROM candidate_index ANTI JOIN prompts USING (prompt_id)
),
strategies AS (SELECT unnest($strategies) AS strategy, generate_subscripts($strategies, 1) AS position),
margins AS (
    SELECT
        selected_by_strategy.position,
        selected_by_strategy.prompt_id,
        selected_by_strategy.chosen,
        selected_by_strategy.rejected,
        {margins},
        candidate_index.origin = 'ground_truth' AS is_ground_truth
    FROM selected_by_strategy
    JOIN common_rewards AS chosen ON chosen.ordinal = selected_by_strategy.chosen
    JOIN common_rewards AS rejected ON rejected.ordinal = selected_by_strategy.rejected
    JOIN candidate_index ON candidate_index.rowid = selected_by_strategy.chosen
)
SELECT
    strategies.strategy,
    count(margins.chosen) AS pairs,
    (SELECT count(*) FROM known) AS prompts,
    count(DISTINCT margins.prompt_id) AS prompts_with_pair,
    count(DISTINCT margins.prompt_id) / nullif((SELECT count(*) FROM known), 0) AS prompt_yield,
    {means},
    count(*) FILTER (margins.is_ground_truth) / nullif(count(margins.chosen), 0) AS ground_truth_share
FROM strategies
LEFT JOIN margins ON margins.position = strategies.position
GROUP BY strategies.position, strategies.strategy
ORDER BY strategies.position
