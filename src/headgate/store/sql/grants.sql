-- name: lock_rate
INSERT INTO rate_locks (tenant, model, turns) VALUES (:tenant, :model, 1)
ON CONFLICT (tenant, model) DO UPDATE SET turns = rate_locks.turns + 1;

-- name: rate_grants
SELECT slot, amount FROM rate_grants
WHERE tenant = :tenant AND model = :model AND kind = :kind;

-- name: book_grant
INSERT INTO rate_grants (tenant, model, kind, slot, amount)
VALUES (:tenant, :model, :kind, :slot, :amount)
ON CONFLICT (tenant, model, kind, slot) DO UPDATE SET amount = excluded.amount;

-- name: drop_grant
DELETE FROM rate_grants
WHERE tenant = :tenant AND model = :model AND kind = :kind AND slot = :slot;

-- name: budget_used
SELECT
    (SELECT coalesce(sum(CASE WHEN :unit = 'money' THEN price_nano
                              ELSE input_tokens + output_tokens END), 0)
     FROM usage_days
     WHERE tenant = :tenant AND day BETWEEN :first_day AND :last_day),
    (SELECT coalesce(sum(amount), 0)
     FROM budget_leases
     WHERE tenant = :tenant AND unit = :unit
       AND first_day = :first_day AND last_day = :last_day
       AND (expires_s > :now_s OR holder = :holder));

-- name: hold_budget
INSERT INTO budget_leases (tenant, unit, first_day, last_day, holder, amount, expires_s)
VALUES (:tenant, :unit, :first_day, :last_day, :holder,
        CASE WHEN :amount > 0 THEN :amount ELSE 0 END, :expires_s)
ON CONFLICT (tenant, unit, first_day, last_day, holder) DO UPDATE SET
    amount = CASE WHEN budget_leases.amount + :amount > 0 THEN budget_leases.amount + :amount
                  ELSE 0 END,
    expires_s = :expires_s;

-- name: keep_budgets
UPDATE budget_leases SET expires_s = :expires_s WHERE holder = :holder;

-- name: drop_old_budgets
DELETE FROM budget_leases WHERE expires_s < :now_s;

-- name: seen
INSERT INTO gateways (holder, seen_s) VALUES (:holder, :now_s)
ON CONFLICT (holder) DO UPDATE SET seen_s = :now_s;

-- name: drop_unseen
DELETE FROM gateways WHERE seen_s < :before_s OR seen_s > :after_s;

-- name: leave
DELETE FROM gateways WHERE holder = :holder;

-- name: count_gateways
SELECT count(*) FROM gateways;
