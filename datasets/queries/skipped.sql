-- Every prompt without a pair, with the first reason that applies, in the order of the CASE: held_out, no_candidates,
-- one_candidate, unscored (fewer than two complete candidates), no_dominance (none is better than another), margin,
-- shape, length (of the best pair).
-- In: temporary tables candidate_index, score_matrix, eligible, ordered_pairs, selected; view prompts; $ground_truth,
-- $num_metrics, $min_margin. Out: rows of table skipped.
WITH known AS (
    SELECT prompt_id, split FROM prompts
    UNION ALL
    SELECT prompt_id, 'train' FROM (SELECT DISTINCT prompt_id FROM candidate_index ANTI JOIN prompts USING (prompt_id))
),
made AS (
    SELECT
        candidate_index.prompt_id,
        count(*) AS num_candidates,
        count(*) FILTER (candidate_index.origin <> 'ground_truth' OR $ground_truth) AS num_admitted,
        count(*) FILTER (score_matrix.num_usable < $num_metrics) AS num_incomplete
    FROM candidate_index
    JOIN score_matrix ON score_matrix.ordinal = candidate_index.rowid
    GROUP BY candidate_index.prompt_id
),
compared AS (SELECT prompt_id, count(*) AS num_compared FROM eligible GROUP BY prompt_id),
ordered AS (SELECT prompt_id, max(margin_total) AS margin FROM ordered_pairs GROUP BY prompt_id),
chosen AS (
    SELECT
        prompt_id,
        count(*) FILTER (fault IS NULL) AS num_kept,
        arg_min(fault, rank) AS fault,
        arg_min(aspect_ratio, rank) AS aspect_ratio,
        arg_min(length_ratio, rank) AS length_ratio
    FROM selected
    GROUP BY prompt_id
),
reasons AS (
    SELECT
        *,
        CASE
            WHEN split <> 'train' THEN 'held_out'
            WHEN coalesce(num_admitted, 0) = 0 THEN 'no_candidates'
            WHEN num_admitted = 1 THEN 'one_candidate'
            WHEN coalesce(num_compared, 0) < 2 THEN 'unscored'
            WHEN margin IS NULL THEN 'no_dominance'
            WHEN fault IS NULL THEN 'margin'
            ELSE fault
        END AS reason
    FROM known
    LEFT JOIN made USING (prompt_id)
    LEFT JOIN compared USING (prompt_id)
    LEFT JOIN ordered USING (prompt_id)
    LEFT JOIN chosen USING (prompt_id)
    WHERE coalesce(num_kept, 0) = 0
)
SELECT
    prompt_id,
    reason,
    CASE reason
        WHEN 'held_out' THEN format('split is {}', split)
        WHEN 'no_candidates' THEN format('{} candidates, {} admitted', coalesce(num_candidates, 0), 0)
        WHEN 'one_candidate' THEN format('{} candidates, 1 admitted', num_candidates)
        WHEN 'unscored' THEN format('{} of {} candidates lack a score', num_incomplete, num_candidates)
        WHEN 'no_dominance'
            THEN format(
                '{} compared, none better than another; {} of {} candidates lack a score',
                num_compared, num_incomplete, num_candidates
            )
        WHEN 'margin' THEN format('largest margin {:.6g}, at least {:.6g} asked', margin, $min_margin::DOUBLE)
        WHEN 'shape' THEN format('aspect ratio {:.6g} of the smaller side', aspect_ratio)
        WHEN 'length' THEN format('one side has {:.6g} times the frames of the other', length_ratio)
    END AS detail
FROM reasons
ORDER BY prompt_id
