-- name: add_usage
INSERT INTO usage (
    request, tenant, key_id, model, tier, class, endpoint, engine, outcome, status, attempts,
    input_tokens, cached_tokens, output_tokens, counted, price_nano, started_s, queued_s,
    first_byte_s, took_s, work_order, day
)
VALUES (
    :request, :tenant, :key, :model, :tier, :class, :endpoint, :engine, :outcome, :status,
    :attempts, :input_tokens, :cached_tokens, :output_tokens, :counted, :price_nano,
    :started_s, :queued_s, :first_byte_s, :took_s, :order, :day
)
ON CONFLICT (request) DO NOTHING;

-- name: add_billed_order
INSERT INTO billed_orders (work_order, request) VALUES (:order, :request)
ON CONFLICT (work_order) DO NOTHING;

-- name: billed_order
SELECT request FROM billed_orders WHERE work_order = :order;

-- name: add_usage_day
INSERT INTO usage_days (
    tenant, day, model, tier, requests, input_tokens, cached_tokens, output_tokens, price_nano
)
VALUES (
    :tenant, :day, :model, :tier, :requests, :input_tokens, :cached_tokens, :output_tokens,
    :price_nano
)
ON CONFLICT (tenant, day, model, tier) DO UPDATE SET
    requests = usage_days.requests + excluded.requests,
    input_tokens = usage_days.input_tokens + excluded.input_tokens,
    cached_tokens = usage_days.cached_tokens + excluded.cached_tokens,
    output_tokens = usage_days.output_tokens + excluded.output_tokens,
    price_nano = usage_days.price_nano + excluded.price_nano;

-- name: release_budget
UPDATE budget_leases
SET amount = CASE WHEN amount > :amount THEN amount - :amount ELSE 0 END
WHERE tenant = :tenant AND unit = :unit AND holder = :holder
  AND first_day <= :day AND last_day >= :day;

-- name: usage_sums
SELECT tenant, model, day, tier, class, key_id, engine, outcome,
       count(*), sum(input_tokens), sum(cached_tokens), sum(output_tokens), sum(price_nano)
FROM usage
WHERE day BETWEEN :first_day AND :last_day AND (:tenant = '' OR tenant = :tenant)
GROUP BY tenant, model, day, tier, class, key_id, engine, outcome;

-- name: usage_day_sums
SELECT tenant, day, model, tier, requests, input_tokens, cached_tokens, output_tokens, price_nano
FROM usage_days
WHERE day BETWEEN :first_day AND :last_day AND (:tenant = '' OR tenant = :tenant)
ORDER BY tenant, day, model, tier;

-- name: usage_records
SELECT request, tenant, key_id, model, tier, class, endpoint, engine, outcome, status, attempts,
       input_tokens, cached_tokens, output_tokens, counted, price_nano, started_s, queued_s,
       first_byte_s, took_s, work_order
FROM usage
WHERE tenant = :tenant AND day BETWEEN :first_day AND :last_day
ORDER BY started_s DESC, request
LIMIT :limit;

-- name: usage_record
SELECT request, tenant, key_id, model, tier, class, endpoint, engine, outcome, status, attempts,
       input_tokens, cached_tokens, output_tokens, counted, price_nano, started_s, queued_s,
       first_byte_s, took_s, work_order
FROM usage WHERE request = :request;
