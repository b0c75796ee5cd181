"""The archive: what the topics held, and images of the tables, as Avro files under a URL. No Kafka and no
PostgreSQL."""
