"""psycopg's composition of SQL, for those who build statements: names are quoted by it, never by hand.

A statement that is composed without placeholders is executed without parameters, so that a `%` in it is only
that.
"""

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

__all__ = ["SQL", "Composable", "Composed", "Identifier", "Literal"]
