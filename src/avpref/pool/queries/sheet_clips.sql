-- Clips for a contact sheet: kept ones, or those that filters removed, of one filter if it is named.
-- In: views decisions, failures, clips, captions, listed; $kept, $filter. Out: one row per clip with its place, in order.
SELECT clips.clip_id, clips.start_s, clips.end_s, coalesce(captions.text, clips.text) AS text,
       decisions.is_kept, decisions.filter, decisions.reason,
       listed.uri, listed.member, listed."offset", listed.num_bytes, listed.stamp
FROM decisions
JOIN clips USING (clip_id)
JOIN listed USING (source_id)
LEFT JOIN captions USING (clip_id)
WHERE decisions.is_kept = $kept
  AND ($filter = '' OR decisions.clip_id IN (SELECT clip_id FROM failures WHERE failures.filter = $filter))
ORDER BY listed.uri, listed."offset", clips.start_s
