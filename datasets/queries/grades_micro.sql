-- What the averages are taken of, "micro": the contributions themselves.
-- In: temporary table contributions. Out: temporary table grades.
CREATE OR REPLACE TEMP TABLE grades AS
SELECT * FROM contributions
