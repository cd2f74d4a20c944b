-- Views of the same names over the training split only; they shadow the connection's views.
-- In: views prompts, candidates and scores of the connection. Out: temporary views prompts, candidates and scores.
CREATE OR REPLACE TEMP VIEW prompts AS
SELECT * FROM memory.main.prompts WHERE split = 'train';

CREATE OR REPLACE TEMP VIEW candidates AS
SELECT * FROM memory.main.candidates SEMI JOIN temp.prompts USING (prompt_id);

CREATE OR REPLACE TEMP VIEW scores AS
SELECT * FROM memory.main.scores SEMI JOIN temp.candidates USING (candidate_id)
