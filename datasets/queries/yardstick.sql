-- The one scale on which strategies are compared: the standing under normalised micro averages, ground truth included.
-- In: temporary table standing. Out: temporary tables yardstick, and picks without rows.
CREATE OR REPLACE TEMP TABLE yardstick AS
SELECT ordinal, video, audio, av FROM standing;

CREATE OR REPLACE TEMP TABLE picks (place INTEGER, strategy VARCHAR, prompt_id VARCHAR, chosen BIGINT, rejected BIGINT)
