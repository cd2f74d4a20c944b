-- Differences between the first and the last of five pair tables, between which the inputs are exchanged in turn:
-- stage 0 = before, 1 = candidates, 2 = scores, 3 = norm, 4 = strategy = after.
-- A pair is identified by its two candidates, whichever is chosen (side). The cause of an added, removed or flipped pair is
-- the last exchange that changed its side; that of a moved margin is the exchange that moved it most (ties: the first).
-- In: view stages (stage, prompt_id, chosen, rejected and the four margins). Out: rows of table differences.
WITH states AS (
    SELECT
        stage,
        prompt_id,
        least(chosen, rejected) AS low,
        greatest(chosen, rejected) AS high,
        CASE WHEN chosen < rejected THEN 1 ELSE -1 END AS side,
        [margin_video, margin_audio, margin_av, margin_total] AS margins
    FROM stages
),
grid AS (
    SELECT
        keys.*,
        steps.stage,
        coalesce(states.side, 0) AS side,
        coalesce(states.margins, [0.0, 0.0, 0.0, 0.0]) AS margins
    FROM (SELECT DISTINCT prompt_id, low, high FROM states WHERE stage IN (0, 4)) AS keys
    CROSS JOIN (SELECT unnest([0, 1, 2, 3, 4]) AS stage) AS steps
    LEFT JOIN states
        ON states.prompt_id = keys.prompt_id
        AND states.low = keys.low
        AND states.high = keys.high
        AND states.stage = steps.stage
),
moves AS (
    SELECT
        *,
        side <> lag(side) OVER walk AS is_turned,
        list_sum(
            list_transform(list_zip(margins, lag(margins) OVER walk), lambda pair: abs(pair[1] - pair[2]))
        ) AS moved
    FROM grid
    WINDOW walk AS (PARTITION BY prompt_id, low, high ORDER BY stage)
),
ends AS (
    SELECT
        prompt_id,
        low,
        high,
        max(side) FILTER (stage = 0) AS side_before,
        max(side) FILTER (stage = 4) AS side_after,
        arg_max(margins, stage) FILTER (stage = 0) AS before,
        arg_max(margins, stage) FILTER (stage = 4) AS after,
        max(stage) FILTER (is_turned) AS turned_at,
        arg_max(stage, (moved, -stage)) FILTER (stage > 0) AS moved_at
    FROM moves
    GROUP BY prompt_id, low, high
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
        CASE WHEN side_before = side_after THEN moved_at ELSE turned_at END
    ] AS cause,
    CASE WHEN coalesce(nullif(side_after, 0), side_before) = 1 THEN low ELSE high END AS chosen,
    CASE WHEN coalesce(nullif(side_after, 0), side_before) = 1 THEN high ELSE low END AS rejected,
    CASE WHEN side_before <> 0 THEN before[4] END AS margin_before,
    CASE WHEN side_after <> 0 THEN after[4] END AS margin_after
FROM ends
WHERE side_before <> side_after OR before <> after
ORDER BY prompt_id, low, high
