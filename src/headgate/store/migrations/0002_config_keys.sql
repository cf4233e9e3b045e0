-- Keys that the config file declares, so that one it names no more is revoked.
ALTER TABLE keys ADD COLUMN from_config INTEGER NOT NULL DEFAULT 0;
