"""Where a document comes from, and whether it says what its row says."""
