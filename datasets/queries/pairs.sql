-- The pairs that are kept, with the scores of both sides: raw, and after direction and normalisation.
-- pair_id is 'x' and 16 hex digits of the SHA-256 of the JSON list ["pair", chosen, rejected], as
-- avpref.identity.digest computes it; ids hold no control characters, which the two JSON writers spell differently.
-- In: temporary tables selected, candidate_index, score_matrix, normalised_scores; $strategy, $norm_id;
-- {margins} = a column per dimension;
-- {scores} = four
-- columns per metric. Out: rows of table pairs.
SELECT
    'x' || substr(
        sha256('["pair",' || to_json(chosen.candidate_id) || ',' || to_json(rejected.candidate_id) || ']'), 1, 16
    ) AS pair_id,
    selected.prompt_id,
    chosen.candidate_id AS chosen,
    rejected.candidate_id AS rejected,
    selected.rank,
    {margins},
    selected.margin_total,
    chosen.origin AS chosen_origin,
    rejected.origin AS rejected_origin,
    {scores},
    $strategy AS strategy,
    $norm_id AS norm_id,
    'all' AS dimension
FROM selected
JOIN candidate_index AS chosen ON chosen.rowid = selected.chosen
JOIN candidate_index AS rejected ON rejected.rowid = selected.rejected
JOIN score_matrix AS chosen_raw ON chosen_raw.ordinal = selected.chosen
JOIN score_matrix AS rejected_raw ON rejected_raw.ordinal = selected.rejected
JOIN normalised_scores AS chosen_normalised ON chosen_normalised.ordinal = selected.chosen
JOIN normalised_scores AS rejected_normalised ON rejected_normalised.ordinal = selected.rejected
WHERE selected.fault IS NULL
ORDER BY selected.prompt_id, selected.rank
