"""The rollback: the application moves back from MongoDB to PostgreSQL, with all that it wrote."""
