-- Usage by blocks: a row for many records that say the same but for their numbers. What was there
-- becomes blocks, and `usage` is a view that shows each record as a row.

-- (postgres)
SET LOCAL statement_timeout = 0;

DROP INDEX usage_by_tenant_day;
ALTER TABLE usage RENAME TO usage_rows;

-- (sqlite)
CREATE TABLE usage_blocks (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    day INTEGER NOT NULL,           -- UTC day of all its records' starts
    key_id TEXT NOT NULL,
    model TEXT NOT NULL,
    tier TEXT NOT NULL,
    class TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    engine TEXT NOT NULL,
    outcome TEXT NOT NULL,
    status INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    counted TEXT NOT NULL,
    prefix TEXT NOT NULL,           -- of its requests' ids, all but the last ten characters
    first_name TEXT NOT NULL,       -- the least and the greatest of those ten characters
    last_name TEXT NOT NULL,
    last_us INTEGER NOT NULL,       -- when the latest of its records started, since 1970
    requests INTEGER NOT NULL,
    records TEXT NOT NULL           -- JSON: an array of ledger.usage.Item
);

-- (postgres)
CREATE TABLE usage_blocks (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant TEXT NOT NULL,
    day INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    model TEXT NOT NULL,
    tier TEXT NOT NULL,
    class TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    engine TEXT NOT NULL,
    outcome TEXT NOT NULL,
    status INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    counted TEXT NOT NULL,
    prefix TEXT NOT NULL COLLATE "C",
    first_name TEXT NOT NULL COLLATE "C",
    last_name TEXT NOT NULL COLLATE "C",
    last_us BIGINT NOT NULL,
    requests INTEGER NOT NULL,
    records TEXT NOT NULL
);

-- Sums of all records by all that they are summed by, kept as `usage_days` is.
CREATE TABLE usage_sums (
    tenant TEXT NOT NULL,
    day INTEGER NOT NULL,
    model TEXT NOT NULL,
    tier TEXT NOT NULL,
    class TEXT NOT NULL,
    key_id TEXT NOT NULL,
    engine TEXT NOT NULL,
    outcome TEXT NOT NULL,
    requests BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    price_nano BIGINT NOT NULL,
    PRIMARY KEY (tenant, day, model, tier, class, key_id, engine, outcome)
);

-- How far each writer's files are in the store: what lies before this is, what lies behind is not.
CREATE TABLE usage_writers (
    writer TEXT PRIMARY KEY,
    segment INTEGER NOT NULL,       -- the number of its file
    bytes BIGINT NOT NULL,
    ended INTEGER NOT NULL          -- 1 when it was dead and all it left open has been closed
);

INSERT INTO usage_sums (
    tenant, day, model, tier, class, key_id, engine, outcome,
    requests, input_tokens, cached_tokens, output_tokens, price_nano
)
SELECT tenant, day, model, tier, class, key_id, engine, outcome,
       count(*), sum(input_tokens), sum(cached_tokens), sum(output_tokens), sum(price_nano)
FROM usage_rows
GROUP BY tenant, day, model, tier, class, key_id, engine, outcome;

-- (sqlite)
INSERT INTO usage_blocks (
    tenant, day, key_id, model, tier, class, endpoint, engine, outcome, status, attempts, counted,
    prefix, first_name, last_name, last_us, requests, records
)
SELECT tenant, day, key_id, model, tier, class, endpoint, engine, outcome, status, attempts,
       counted, prefix, min(name), max(name), max(started_us), count(*),
       json_group_array(json_array(
           name, input_tokens, cached_tokens, output_tokens, price_nano, started_us,
           CAST(round(queued_s * 1000000) AS INTEGER),
           CAST(round(first_byte_s * 1000000) AS INTEGER),
           CAST(round(took_s * 1000000) AS INTEGER), work_order
       ))
FROM (
    SELECT *, (row_number() OVER (
        PARTITION BY tenant, day, key_id, model, tier, class, endpoint, engine, outcome, status,
                     attempts, counted, prefix
        ORDER BY name
    ) - 1) / 1000 AS part
    FROM (
        SELECT *, substr(request, 1, cut) AS prefix, substr(request, cut + 1) AS name,
               CAST(round(started_s * 1000000) AS INTEGER) AS started_us
        FROM (SELECT *, max(length(request) - 10, 0) AS cut FROM usage_rows)
    )
)
GROUP BY tenant, day, key_id, model, tier, class, endpoint, engine, outcome, status, attempts,
         counted, prefix, part;

-- (postgres)
INSERT INTO usage_blocks (
    tenant, day, key_id, model, tier, class, endpoint, engine, outcome, status, attempts, counted,
    prefix, first_name, last_name, last_us, requests, records
)
SELECT tenant, day, key_id, model, tier, class, endpoint, engine, outcome, status, attempts,
       counted, prefix, min(name COLLATE "C"), max(name COLLATE "C"), max(started_us), count(*),
       json_agg(json_build_array(
           name, input_tokens, cached_tokens, output_tokens, price_nano, started_us,
           round(queued_s * 1000000)::bigint, round(first_byte_s * 1000000)::bigint,
           round(took_s * 1000000)::bigint, work_order
       ))::text
FROM (
    SELECT *, (row_number() OVER (
        PARTITION BY tenant, day, key_id, model, tier, class, endpoint, engine, outcome, status,
                     attempts, counted, prefix
        ORDER BY name
    ) - 1) / 1000 AS part
    FROM (
        SELECT *, substr(request, 1, cut) AS prefix, substr(request, cut + 1) AS name,
               round(started_s * 1000000)::bigint AS started_us
        FROM (SELECT *, greatest(length(request) - 10, 0) AS cut FROM usage_rows) AS measured
    ) AS cut_in_two
) AS numbered
GROUP BY tenant, day, key_id, model, tier, class, endpoint, engine, outcome, status, attempts,
         counted, prefix, part;

DROP TABLE usage_rows;

CREATE INDEX usage_blocks_by_tenant ON usage_blocks (tenant, day, last_us);
CREATE INDEX usage_blocks_by_name ON usage_blocks (prefix, last_name, first_name);

-- (sqlite)
CREATE VIEW usage AS
SELECT b.prefix || json_extract(r.value, '$[0]') AS request,
       b.tenant, b.key_id, b.model, b.tier, b.class, b.endpoint, b.engine, b.outcome, b.status,
       b.attempts,
       json_extract(r.value, '$[1]') AS input_tokens,
       json_extract(r.value, '$[2]') AS cached_tokens,
       json_extract(r.value, '$[3]') AS output_tokens,
       b.counted,
       json_extract(r.value, '$[4]') AS price_nano,
       b.day,
       json_extract(r.value, '$[5]') / 1e6 AS started_s,
       json_extract(r.value, '$[6]') / 1e6 AS queued_s,
       json_extract(r.value, '$[7]') / 1e6 AS first_byte_s,
       json_extract(r.value, '$[8]') / 1e6 AS took_s,
       json_extract(r.value, '$[9]') AS work_order
FROM usage_blocks AS b, json_each(b.records) AS r;

-- (postgres)
CREATE VIEW usage AS
SELECT b.prefix || (r.item ->> 0) AS request,
       b.tenant, b.key_id, b.model, b.tier, b.class, b.endpoint, b.engine, b.outcome, b.status,
       b.attempts,
       (r.item ->> 1)::bigint AS input_tokens,
       (r.item ->> 2)::bigint AS cached_tokens,
       (r.item ->> 3)::bigint AS output_tokens,
       b.counted,
       (r.item ->> 4)::bigint AS price_nano,
       b.day,
       (r.item ->> 5)::bigint / 1e6::double precision AS started_s,
       (r.item ->> 6)::bigint / 1e6::double precision AS queued_s,
       (r.item ->> 7)::bigint / 1e6::double precision AS first_byte_s,
       (r.item ->> 8)::bigint / 1e6::double precision AS took_s,
       r.item ->> 9 AS work_order
FROM usage_blocks AS b CROSS JOIN LATERAL jsonb_array_elements(b.records::jsonb) AS r (item);
