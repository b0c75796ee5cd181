"""Where the pipeline stands: what is not yet in Kafka, not yet applied, parked; and when it is complete as of an LSN."""
