"""Kafka: topics and their ends, and records from where MongoDB says. No decoding, no committed progress."""
