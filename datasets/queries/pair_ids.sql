-- Ids of pairs: 'x' and 16 hex digits of the SHA-256 of a JSON list, as avpref.identity.digest computes it:
-- ["pair", chosen, rejected], and the dimension where a pair speaks for one. Ids hold no control characters, which
-- the two JSON writers spell differently.
-- In: view sides (chosen, rejected, dimension). Out: pair_id, in the order of sides.
SELECT
    'x' || substr(
        sha256(
            '["pair",' || to_json(chosen) || ',' || to_json(rejected)
            || CASE WHEN dimension = 'all' THEN '' ELSE ',' || to_json(dimension) END || ']'
        ),
        1,
        16
    ) AS pair_id
FROM sides
