-- Sources that are not used, and the sources that show the same. In: views recordings, sources. Out: one row per source.
SELECT sources.uri, sources.member, recordings.reason, other.uri AS same_as, other.member AS same_as_member
FROM recordings
JOIN sources USING (source_id)
JOIN sources AS other ON other.source_id = recordings.duplicate_of
WHERE NOT recordings.is_used
ORDER BY sources.uri, sources.member
