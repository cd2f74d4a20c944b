-- Differences between the first and the last of five pair tables; each stage exchanges one input:
-- stage 0 = before, 1 = candidates, 2 = scores, 3 = norm, 4 = strategy = after.
-- A pair is identified by its two candidates, whichever is chosen (side), and its dimension.
-- The cause of an added, removed or flipped pair is the last exchange that changed its side; the cause of a changed
-- margin is the exchange that changed it most (ties: the first).
-- In: view stages (stage, prompt_id, dimension, chosen, rejected and the margins); {margins} = its columns
-- of margins, margin_total last; {zeros} = as many zeros. Out: rows of table differences.
WITH states AS (
    SELECT
        stage,
        prompt_id,
        dimension,
        least(chosen, rejected) AS low,
        greatest(chosen, rejected) AS high,
        CASE WHEN chosen < rejected THEN 1 ELSE -1 END AS side,
        [{margins}] AS margins
    FROM stages
),
grid AS (
    SELECT
        keys.*,
        steps.stage,
        coalesce(states.side, 0) AS side,
        coalesce(states.margins, [{zeros}]) AS margins
    FROM (SELECT DISTINCT prompt_id, dimension, low, high FROM states WHERE stage IN (0, 4)) AS keys
    CROSS JOIN (SELECT unnest([0, 1, 2, 3, 4]) AS stage) AS steps
    LEFT JOIN states
        ON states.prompt_id = keys.prompt_id
        AND states.dimension = keys.dimension
        AND states.low = keys.low
        AND states.high = keys.high
        AND states.stage = steps.stage
),
steps_of_pairs AS (
    SELECT
        *,
        side <> lag(side) OVER in_order AS is_side_changed,
        list_sum(
            list_transform(list_zip(margins, lag(margins) OVER in_order), lambda pair: abs(pair[1] - pair[2]))
        ) AS change
    FROM grid
    WINDOW in_order AS (PARTITION BY prompt_id, dimension, low, high ORDER BY stage)
),
ends AS (
    SELECT
        prompt_id,
        dimension,
        low,
        high,
        max(side) FILTER (stage = 0) AS side_before,
        max(side) FILTER (stage = 4) AS side_after,
        arg_max(margins, stage) FILTER (stage = 0) AS before,
        arg_max(margins, stage) FILTER (stage = 4) AS after,
        max(stage) FILTER (is_side_changed) AS side_changed_at,
        arg_max(stage, (change, -stage)) FILTER (stage > 0) AS changed_most_at
    FROM steps_of_pairs
    GROUP BY prompt_id, dimension, low, high
)
SELECT
    prompt_id,
    CASE
        WHEN side_before = 0 THEN 'added'
        WHEN side_after = 0 THEN 'removed'
        WHEN side_before <> side_after THEN 'flipped'
        ELSE 'margin'
    END AS change,
    ['candidates', 'scores', 'norm', 'strategy'][
        CASE WHEN side_before = side_after THEN changed_most_at ELSE side_changed_at END
    ] AS cause,
    CASE WHEN coalesce(nullif(side_after, 0), side_before) = 1 THEN low ELSE high END AS chosen,
    CASE WHEN coalesce(nullif(side_after, 0), side_before) = 1 THEN high ELSE low END AS rejected,
    dimension,
    CASE WHEN side_before <> 0 THEN before[-1] END AS margin_before,
    CASE WHEN side_after <> 0 THEN after[-1] END AS margin_after
FROM ends
WHERE side_before <> side_after OR before <> after
ORDER BY prompt_id, low, high, dimension
