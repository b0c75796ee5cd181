"""Where the pipeline stands: what is not yet in Kafka, not yet applied, parked; and whether it is complete."""
