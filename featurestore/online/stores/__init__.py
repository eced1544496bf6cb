"""Keep online state: SQLite, PostgreSQL, Redis or memory."""
