"""Facts at rest: SQLite by default, PostgreSQL when several gateways share one fleet."""
