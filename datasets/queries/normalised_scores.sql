-- Scores after direction and normalisation, one column per metric. NULL stays NULL.
-- In: raw_scores (ordinal, prompt_id, one column per metric); $mean, $std, $sign = lists in the order of the metrics;
-- {normalised} = a call of the macro normalised per metric. Out: temporary table normalised_scores.
CREATE OR REPLACE TEMP TABLE normalised_scores AS
SELECT ordinal, prompt_id, {normalised}
FROM raw_scores
