"""MongoDB: transactions, and tandem's own documents in the target database. No row knowledge."""
