"""The cutover: the application moves from PostgreSQL to MongoDB, and at any point it is known where it is."""
