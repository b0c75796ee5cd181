"""Debezium on Kafka Connect: its configuration, its REST interface, and what its events look like."""
