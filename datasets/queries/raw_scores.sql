-- Raw scores of the candidates that the strategy admits. Ground truth that it does not admit counts in the norm but
-- takes no part in ranks; the published ranking drops it at the same point.
-- In: temporary tables score_matrix and candidate_index; {ground_truth} = true or false.
-- Out: temporary view raw_scores.
CREATE OR REPLACE TEMP VIEW raw_scores AS
SELECT score_matrix.*
FROM score_matrix
JOIN candidate_index ON candidate_index.rowid = score_matrix.ordinal
WHERE candidate_index.origin <> 'ground_truth' OR {ground_truth}
