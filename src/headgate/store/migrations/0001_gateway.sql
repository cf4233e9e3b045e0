-- The SQL here is what SQLite and PostgreSQL share. Times are seconds since 1970, days are days
-- since 1970, money is in billionths of the currency unit.

CREATE TABLE schema_migrations (
    version INTEGER PRIMARY KEY
);

-- One row: a number that changes with every change of tenants or keys, so that a gateway
-- learns of it by reading one row.
CREATE TABLE account_changes (
    id INTEGER PRIMARY KEY,
    version BIGINT NOT NULL
);
INSERT INTO account_changes (id, version) VALUES (1, 1);

CREATE TABLE tenants (
    name TEXT PRIMARY KEY,
    document TEXT NOT NULL,         -- ledger.accounts.Tenant as JSON
    from_config INTEGER NOT NULL    -- 1 when the config file declares it and may change it
);

CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL REFERENCES tenants (name),
    digest TEXT NOT NULL UNIQUE,    -- SHA-256 of the key, in hex; the key itself is nowhere
    hint TEXT NOT NULL,             -- its first characters, for people
    label TEXT NOT NULL,
    admin INTEGER NOT NULL,
    created_s DOUBLE PRECISION NOT NULL,
    expires_s DOUBLE PRECISION,
    revoked_s DOUBLE PRECISION
);
CREATE INDEX keys_by_tenant ON keys (tenant);

-- One row for each request, for ever: the bill is the sum of these.
CREATE TABLE usage (
    request TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    key_id TEXT NOT NULL,
    model TEXT NOT NULL,
    tier TEXT NOT NULL,
    class TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    engine TEXT NOT NULL,
    outcome TEXT NOT NULL,
    status INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    input_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    counted TEXT NOT NULL,
    price_nano BIGINT NOT NULL,
    day INTEGER NOT NULL,           -- UTC day of started_s
    started_s DOUBLE PRECISION NOT NULL,
    queued_s DOUBLE PRECISION NOT NULL,
    first_byte_s DOUBLE PRECISION NOT NULL,
    took_s DOUBLE PRECISION NOT NULL,
    work_order TEXT NOT NULL        -- batch and line, "" for other work
);
CREATE INDEX usage_by_tenant_day ON usage (tenant, day);

-- Sums of `usage`, kept in the transaction that adds the records: budgets read these.
CREATE TABLE usage_days (
    tenant TEXT NOT NULL,
    day INTEGER NOT NULL,
    model TEXT NOT NULL,
    tier TEXT NOT NULL,
    requests BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    price_nano BIGINT NOT NULL,
    PRIMARY KEY (tenant, day, model, tier)
);

-- Lines of batches that have been billed; a line done again after a crash is not billed again.
CREATE TABLE billed_orders (
    work_order TEXT PRIMARY KEY,
    request TEXT NOT NULL
);

-- What gateways have taken of a rate, by the quarter second until which they may use it.
CREATE TABLE rate_grants (
    tenant TEXT NOT NULL,
    model TEXT NOT NULL,
    kind TEXT NOT NULL,             -- requests, tokens, reserved_input, reserved_output
    slot BIGINT NOT NULL,           -- quarter seconds since 1970
    amount BIGINT NOT NULL,
    PRIMARY KEY (tenant, model, kind, slot)
);

-- A row to lock for each rate, so that two gateways never take from it at once.
CREATE TABLE rate_locks (
    tenant TEXT NOT NULL,
    model TEXT NOT NULL,
    turns BIGINT NOT NULL,
    PRIMARY KEY (tenant, model)
);

-- What gateways hold of a budget: reserved, or used and not yet in usage_days.
CREATE TABLE budget_leases (
    tenant TEXT NOT NULL,
    unit TEXT NOT NULL,             -- money (nano) or tokens
    first_day INTEGER NOT NULL,     -- first day of the budget's period
    last_day INTEGER NOT NULL,
    holder TEXT NOT NULL,           -- the writer whose records will account for it
    amount BIGINT NOT NULL,
    expires_s DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (tenant, unit, first_day, last_day, holder)
);

-- Gateway processes that are alive, so that each knows its share while the store is away.
CREATE TABLE gateways (
    holder TEXT PRIMARY KEY,
    seen_s DOUBLE PRECISION NOT NULL
);

CREATE TABLE files (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    created_s DOUBLE PRECISION NOT NULL,
    expires_s DOUBLE PRECISION,
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL
);
CREATE INDEX files_by_tenant ON files (tenant, created_s);

CREATE TABLE batches (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    key_id TEXT NOT NULL,
    status TEXT NOT NULL,
    deadline_s DOUBLE PRECISION NOT NULL,
    created_s DOUBLE PRECISION NOT NULL,
    runner TEXT NOT NULL,           -- the process that works on it, "" for none
    runner_until_s DOUBLE PRECISION NOT NULL,
    document TEXT NOT NULL          -- the batch object as JSON
);
CREATE INDEX batches_by_tenant ON batches (tenant, created_s);
CREATE INDEX batches_by_status ON batches (status, deadline_s);
