"""`tandem archive`: keeps what the topics hold, and images of the tables, for a way back."""
