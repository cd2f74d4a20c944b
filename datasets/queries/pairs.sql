-- The pairs that are kept, with both sides' scores: raw, and after direction and normalisation.
-- pair_id is avpref.domain.pair_id: 'x' and 16 hex digits of the SHA-256 of the JSON list ["pair", chosen, rejected];
-- ids hold no control characters, the only ones that the two JSON writers spell differently.
-- In: temporary tables selected, roster, board, contributions; $strategy, $norm_id. Out: rows of table pairs.
SELECT
    'x' || substr(
        sha256('["pair",' || to_json(chosen.candidate_id) || ',' || to_json(rejected.candidate_id) || ']'), 1, 16
    ) AS pair_id,
    selected.prompt_id,
    chosen.candidate_id AS chosen,
    rejected.candidate_id AS rejected,
    selected.rank,
    selected.margin_video,
    selected.margin_audio,
    selected.margin_av,
    selected.margin_total,
    chosen.origin AS chosen_origin,
    rejected.origin AS rejected_origin,
    chosen_raw.visual_quality AS chosen_visual_quality,
    chosen_raw.motion_quality AS chosen_motion_quality,
    chosen_raw.text_video AS chosen_text_video,
    chosen_raw.audio_quality AS chosen_audio_quality,
    chosen_raw.text_audio AS chosen_text_audio,
    chosen_raw.audio_video AS chosen_audio_video,
    chosen_raw.desync AS chosen_desync,
    rejected_raw.visual_quality AS rejected_visual_quality,
    rejected_raw.motion_quality AS rejected_motion_quality,
    rejected_raw.text_video AS rejected_text_video,
    rejected_raw.audio_quality AS rejected_audio_quality,
    rejected_raw.text_audio AS rejected_text_audio,
    rejected_raw.audio_video AS rejected_audio_video,
    rejected_raw.desync AS rejected_desync,
    chosen_made.visual_quality AS chosen_visual_quality_normalised,
    chosen_made.motion_quality AS chosen_motion_quality_normalised,
    chosen_made.text_video AS chosen_text_video_normalised,
    chosen_made.audio_quality AS chosen_audio_quality_normalised,
    chosen_made.text_audio AS chosen_text_audio_normalised,
    chosen_made.audio_video AS chosen_audio_video_normalised,
    chosen_made.desync AS chosen_desync_normalised,
    rejected_made.visual_quality AS rejected_visual_quality_normalised,
    rejected_made.motion_quality AS rejected_motion_quality_normalised,
    rejected_made.text_video AS rejected_text_video_normalised,
    rejected_made.audio_quality AS rejected_audio_quality_normalised,
    rejected_made.text_audio AS rejected_text_audio_normalised,
    rejected_made.audio_video AS rejected_audio_video_normalised,
    rejected_made.desync AS rejected_desync_normalised,
    $strategy AS strategy,
    $norm_id AS norm_id
FROM selected
JOIN roster AS chosen ON chosen.rowid = selected.chosen
JOIN roster AS rejected ON rejected.rowid = selected.rejected
JOIN board AS chosen_raw ON chosen_raw.ordinal = selected.chosen
JOIN board AS rejected_raw ON rejected_raw.ordinal = selected.rejected
JOIN contributions AS chosen_made ON chosen_made.ordinal = selected.chosen
JOIN contributions AS rejected_made ON rejected_made.ordinal = selected.rejected
WHERE selected.fault IS NULL
ORDER BY selected.prompt_id, selected.rank
