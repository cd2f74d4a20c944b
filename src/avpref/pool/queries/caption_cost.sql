-- Captions by origin with their requests, tokens and cost. In: view captions. Out: one row per origin.
SELECT origin, count(*) AS captions, sum(requests) AS requests, sum(input_tokens) AS input_tokens,
       sum(output_tokens) AS output_tokens, sum(cost) AS cost
FROM captions
GROUP BY origin
ORDER BY origin
