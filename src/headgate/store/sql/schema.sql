-- name: has_schema_table
SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_migrations';

-- name: has_schema_table (postgres)
SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'schema_migrations';

-- name: schema_version
SELECT coalesce(max(version), 0) FROM schema_migrations;

-- name: put_schema_version
INSERT INTO schema_migrations (version) VALUES (:version);

-- name: lock_migrations (postgres)
SELECT pg_advisory_xact_lock(:lock);
