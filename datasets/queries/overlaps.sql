-- For every two strategies: the pairs that both select (same sides, same order), and their share of those that either
-- selects; the share is NULL where neither selects any.
-- In: temporary table picks; $strategies in order. Out: rows of table strategy_overlaps.
WITH listed AS (SELECT unnest($strategies) AS strategy, generate_subscripts($strategies, 1) AS place),
totals AS (
    SELECT listed.place, listed.strategy, count(picks.chosen) AS num_pairs
    FROM listed
    LEFT JOIN picks ON picks.place = listed.place
    GROUP BY listed.place, listed.strategy
),
shared AS (
    SELECT one.place AS place, other.place AS other, count(*) AS common
    FROM picks AS one
    JOIN picks AS other ON one.chosen = other.chosen AND one.rejected = other.rejected
    GROUP BY one.place, other.place
)
SELECT
    one.strategy AS strategy,
    other.strategy AS other,
    coalesce(shared.common, 0) AS common,
    coalesce(shared.common, 0) / nullif(one.num_pairs + other.num_pairs - coalesce(shared.common, 0), 0) AS share
FROM totals AS one
CROSS JOIN totals AS other
LEFT JOIN shared ON shared.place = one.place AND shared.other = other.place
ORDER BY one.place, other.place
