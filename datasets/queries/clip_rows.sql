-- One row per clip of a run with its prompt, scores and rewards, for pages of the explorer.
-- In: tables candidates, policy_clips, prompts, scores, rewards, evaluations; "rewards" long rows of table rewards,
-- "columns" one aggregate per metric and dimension. Out: table clip_rows.
CREATE TABLE clip_rows AS
WITH numbers AS (
    SELECT candidate_id, metric AS name, value FROM scores WHERE status = 'ok'
    UNION ALL
    SELECT candidate_id, name, value FROM evaluations
    WHERE side = 'policy' AND kind IN ('score', 'judge') AND value IS NOT NULL
    UNION ALL
    SELECT candidate_id, 'reward_' || name, value FROM evaluations WHERE kind = 'reward' AND value IS NOT NULL
    {rewards}
),
wide AS (SELECT candidate_id{columns} FROM numbers GROUP BY candidate_id),
clips AS (
    SELECT *, 'generate' AS stage FROM candidates
    UNION ALL
    SELECT *, 'evaluate' AS stage FROM policy_clips
    WHERE candidate_id IN (SELECT candidate_id FROM evaluations WHERE side = 'policy')
)
SELECT
    clips.candidate_id,
    clips.prompt_id,
    prompts.text AS prompt,
    CASE
        WHEN clips.stage = 'evaluate' THEN 'policy'
        WHEN prompts.split = 'held_out' THEN 'reference'
        ELSE 'training'
    END AS side,
    clips.origin,
    clips."index",
    wide.* EXCLUDE (candidate_id),
    clips.seed,
    prompts.taxonomy,
    clips.duration_s,
    clips.width_px,
    clips.height_px,
    clips.fps_hz,
    clips.num_frames,
    clips.sample_rate_hz,
    clips.elapsed_s,
    clips.checkpoint_hash,
    clips.adapter_hash,
    clips.sampler_hash,
    clips.sha256,
    clips.path
FROM clips
LEFT JOIN prompts USING (prompt_id)
LEFT JOIN wide USING (candidate_id)
