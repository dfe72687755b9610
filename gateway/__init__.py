"""Meaning: what a reading says, what must be done about it, who must be told."""
