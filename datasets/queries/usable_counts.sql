-- Number of candidates that have a usable score, per metric.
-- In: temporary table score_matrix; {counts} = a count per metric. Out: one row, one column per metric.
SELECT {counts} FROM score_matrix
