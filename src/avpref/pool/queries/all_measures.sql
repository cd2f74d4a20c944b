-- All measures of a pool; where a text was compared again with its clip, the later comparison.
-- In: views measures, agreements. Out: view all_measures.
CREATE OR REPLACE VIEW all_measures AS
SELECT * FROM agreements
UNION ALL
SELECT measures.* FROM measures
ANTI JOIN agreements ON measures.clip_id = agreements.clip_id AND measures.measure = agreements.measure
