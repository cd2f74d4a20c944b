-- The clips of a pool with the places of their sources, in the order of the list and of time.
-- In: views clips, listed. Out: clip_id, start_s, end_s, text, and the place of the source.
SELECT clips.clip_id, clips.start_s, clips.end_s, clips.text, clips.taxonomy, clips.group_id,
       listed.uri, listed.member, listed."offset", listed.num_bytes, listed.stamp
FROM clips
JOIN listed USING (source_id)
WHERE clips.status = 'ok'
ORDER BY listed.uri, listed."offset", clips.start_s, clips.clip_id
