"""The rows that could not be applied, for people: what waits, why, and what becomes of it."""
