-- name: add_block
INSERT INTO usage_blocks (
    tenant, day, key_id, model, tier, class, endpoint, engine, outcome, status, attempts, counted,
    prefix, first_name, last_name, last_us, requests, records
)
VALUES (
    :tenant, :day, :key, :model, :tier, :class, :endpoint, :engine, :outcome, :status, :attempts,
    :counted, :prefix, :first_name, :last_name, :last_us, :requests, :records
);

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

-- name: add_usage_sum
INSERT INTO usage_sums (
    tenant, day, model, tier, class, key_id, engine, outcome,
    requests, input_tokens, cached_tokens, output_tokens, price_nano
)
VALUES (
    :tenant, :day, :model, :tier, :class, :key, :engine, :outcome,
    :requests, :input_tokens, :cached_tokens, :output_tokens, :price_nano
)
ON CONFLICT (tenant, day, model, tier, class, key_id, engine, outcome) DO UPDATE SET
    requests = usage_sums.requests + excluded.requests,
    input_tokens = usage_sums.input_tokens + excluded.input_tokens,
    cached_tokens = usage_sums.cached_tokens + excluded.cached_tokens,
    output_tokens = usage_sums.output_tokens + excluded.output_tokens,
    price_nano = usage_sums.price_nano + excluded.price_nano;

-- name: add_billed_order
INSERT INTO billed_orders (work_order, request) VALUES (:order, :request)
ON CONFLICT (work_order) DO NOTHING;

-- name: billed_order
SELECT request FROM billed_orders WHERE work_order = :order;

-- name: budgets_held
SELECT DISTINCT tenant FROM budget_leases WHERE holder = :holder;

-- name: release_budget
UPDATE budget_leases
SET amount = CASE WHEN amount > :amount THEN amount - :amount ELSE 0 END
WHERE tenant = :tenant AND unit = :unit AND holder = :holder
  AND first_day <= :day AND last_day >= :day;

-- name: meet_writer
INSERT INTO usage_writers (writer, segment, bytes, ended) VALUES (:writer, 0, 0, 0)
ON CONFLICT (writer) DO NOTHING;

-- name: writer
SELECT segment, bytes, ended FROM usage_writers WHERE writer = :writer;

-- name: move_writer
UPDATE usage_writers SET segment = :segment, bytes = :bytes, ended = :ended
WHERE writer = :writer AND segment = :from_segment AND bytes = :from_bytes AND ended = 0;

-- name: forget_writer
DELETE FROM usage_writers WHERE writer = :writer AND ended = 1;

-- name: usage_sums
SELECT tenant, model, day, tier, class, key_id, engine, outcome,
       requests, input_tokens, cached_tokens, output_tokens, price_nano
FROM usage_sums
WHERE day BETWEEN :first_day AND :last_day AND (:tenant = '' OR tenant = :tenant);

-- name: usage_day_sums
SELECT tenant, day, model, tier, requests, input_tokens, cached_tokens, output_tokens, price_nano
FROM usage_days
WHERE day BETWEEN :first_day AND :last_day AND (:tenant = '' OR tenant = :tenant)
ORDER BY tenant, day, model, tier;

-- name: blocks
SELECT id, last_us, day, prefix, tenant, key_id, model, tier, class, endpoint, engine, outcome,
       status, attempts, counted, records
FROM usage_blocks
WHERE id > :after AND day BETWEEN :first_day AND :last_day
  AND (:tenant = '' OR tenant = :tenant)
ORDER BY id
LIMIT :limit;

-- name: newest_blocks
SELECT id, last_us, day, prefix, tenant, key_id, model, tier, class, endpoint, engine, outcome,
       status, attempts, counted, records
FROM usage_blocks
WHERE tenant = :tenant AND day BETWEEN :first_day AND :last_day
ORDER BY day DESC, last_us DESC, id
LIMIT :limit OFFSET :offset;

-- name: blocks_with
SELECT id, last_us, day, prefix, tenant, key_id, model, tier, class, endpoint, engine, outcome,
       status, attempts, counted, records
FROM usage_blocks
WHERE prefix = :prefix AND last_name >= :first_name AND first_name <= :last_name
ORDER BY id;
