-- name: account_version
SELECT version FROM account_changes WHERE id = 1;

-- name: account_changed
UPDATE account_changes SET version = version + 1 WHERE id = 1;

-- name: put_tenant
INSERT INTO tenants (name, document, from_config)
VALUES (:name, :document, :from_config)
ON CONFLICT (name) DO UPDATE
SET document = excluded.document, from_config = excluded.from_config
WHERE tenants.document <> excluded.document OR tenants.from_config <> excluded.from_config;

-- name: tenant
SELECT document, from_config FROM tenants WHERE name = :name;

-- name: tenants
SELECT document, from_config FROM tenants ORDER BY name;

-- name: drop_tenant
DELETE FROM tenants WHERE name = :name;

-- name: drop_keys_of_tenant
DELETE FROM keys WHERE tenant = :tenant;

-- name: put_key
INSERT INTO keys (id, tenant, digest, hint, label, admin, created_s, expires_s)
VALUES (:id, :tenant, :digest, :hint, :label, :admin, :created_s, :expires_s);

-- name: put_given_key
INSERT INTO keys (id, tenant, digest, hint, label, admin, created_s, from_config)
VALUES (:id, :tenant, :digest, '', 'from the config', :admin, :now_s, 1)
ON CONFLICT (id) DO UPDATE
SET tenant = excluded.tenant, digest = excluded.digest, admin = excluded.admin, revoked_s = NULL
WHERE keys.from_config = 1 AND (
    keys.tenant <> excluded.tenant OR keys.digest <> excluded.digest
    OR keys.admin <> excluded.admin OR keys.revoked_s IS NOT NULL
);

-- name: given_keys
SELECT id FROM keys WHERE from_config = 1 AND revoked_s IS NULL;

-- name: revoke_key
UPDATE keys SET revoked_s = :now_s WHERE id = :id AND revoked_s IS NULL;

-- name: keys
SELECT id, tenant, hint, label, admin, created_s, expires_s, revoked_s
FROM keys ORDER BY created_s, id;

-- name: keys_of_tenant
SELECT id, tenant, hint, label, admin, created_s, expires_s, revoked_s
FROM keys WHERE tenant = :tenant ORDER BY created_s, id;

-- name: valid_keys
SELECT digest, id, tenant, admin, expires_s FROM keys WHERE revoked_s IS NULL;
