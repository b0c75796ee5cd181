"""The way back: what is written to MongoDB reaches PostgreSQL."""
