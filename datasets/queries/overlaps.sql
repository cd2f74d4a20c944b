-- For every two strategies: the number of pairs that both select (same sides, same order), and their share of the pairs
-- that at least one selects; the share is NULL where neither selects any.
-- In: temporary table selected_by_strategy; $strategies in order. Out: rows of table strategy_overlaps.
WITH strategies AS (SELECT unnest($strategies) AS strategy, generate_subscripts($strategies, 1) AS position),
totals AS (
    SELECT strategies.position, strategies.strategy, count(selected_by_strategy.chosen) AS num_pairs
    FROM strategies
    LEFT JOIN selected_by_strategy ON selected_by_strategy.position = strategies.position
    GROUP BY strategies.position, strategies.strategy
),
shared AS (
    SELECT first.position AS position, second.position AS other, count(*) AS common
    FROM selected_by_strategy AS first
    JOIN selected_by_strategy AS second ON first.chosen = second.chosen AND first.rejected = second.rejected
    GROUP BY first.position, second.position
)
SELECT
    first.strategy AS strategy,
    second.strategy AS other,
    coalesce(shared.common, 0) AS common,
    coalesce(shared.common, 0) / nullif(first.num_pairs + second.num_pairs - coalesce(shared.common, 0), 0) AS share
FROM totals AS first
CROSS JOIN totals AS second
LEFT JOIN shared ON shared.position = first.position AND shared.other = second.position
ORDER BY first.position, second.position
