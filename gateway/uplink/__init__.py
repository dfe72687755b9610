"""What is told: one thread a platform, at least once, nothing deleted."""
