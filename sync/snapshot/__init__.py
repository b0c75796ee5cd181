"""The backfill: rows of a snapshot into empty collections, in parallel, resumable, while their tables are held."""
