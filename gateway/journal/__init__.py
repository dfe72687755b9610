"""What is kept: staged in memory-backed files, committed to SQLite, numbered for ever."""
