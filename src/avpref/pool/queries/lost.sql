-- What is not in the result and what tables say of it: refused sources, duplicates, ranges that are no clips, removed clips.
-- In: views sources, recordings, clips, listed, decisions, captions. Out: stage, item, uri, member, reason, hours.
SELECT 'scan' AS stage, source_id AS item, uri, member, reason, 0.0 AS hours
FROM sources
WHERE status <> 'ok'
UNION ALL
SELECT 'scan', recordings.source_id, sources.uri, sources.member,
       recordings.reason || ': ' || other.uri || CASE WHEN other.member = '' THEN '' ELSE ' ' || other.member END,
       sources.duration_s / 3600.0
FROM recordings
JOIN sources USING (source_id)
JOIN sources AS other ON other.source_id = recordings.duplicate_of
WHERE NOT recordings.is_used
UNION ALL
SELECT 'cut', clips.clip_id, listed.uri, listed.member,
       printf('frames %d to %d: ', clips.first_frame, clips.end_frame) || clips.reason, (clips.end_s - clips.start_s) / 3600.0
FROM clips
JOIN listed USING (source_id)
WHERE clips.status <> 'ok'
UNION ALL
SELECT 'caption', captions.clip_id, listed.uri, listed.member, captions.reason, 0.0
FROM captions
JOIN clips USING (clip_id)
JOIN listed USING (source_id)
WHERE captions.status <> 'ok'
UNION ALL
SELECT 'filter', decisions.clip_id, listed.uri, listed.member, decisions.filter || ': ' || decisions.reason,
       (clips.end_s - clips.start_s) / 3600.0
FROM decisions
JOIN clips USING (clip_id)
JOIN listed USING (source_id)
WHERE NOT decisions.is_kept
