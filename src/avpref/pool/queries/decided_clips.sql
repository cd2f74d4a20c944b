-- The clips that filters decide about (those that were measured) with their categories: the caption's, or the list's.
-- In: views clips, measures, captions. Out: clip_id, category, in the order of ids.
SELECT clips.clip_id, any_value(coalesce(nullif(captions.category, ''), clips.taxonomy)) AS category
FROM clips
LEFT JOIN captions USING (clip_id)
WHERE clips.status = 'ok'
  AND clips.clip_id IN (SELECT clip_id FROM measures)
GROUP BY clips.clip_id
ORDER BY clips.clip_id
