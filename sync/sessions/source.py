"""Where the source keeps sessions, by the mapping."""

from __future__ import annotations

from connectors.errors import SessionsUnfit
from connectors.postgres.active import SessionTable
from connectors.settings import SessionShape
from consumers.mapping.plan import Plan, RowPlan

_MOMENTS = {"timestamptz", "timestamp", "timestamp with time zone", "timestamp without time zone", "date"}


def session_table(plan: Plan, shape: SessionShape) -> SessionTable | None:
    """The table that feeds the collection of sessions; None where none does.

    Raises SessionsUnfit where nothing in it says whose a session is.
    """
    use = plan.documents.get(shape.collection)
    if use is None:
        return None
    table = use.table.table
    user = _column(use, shape.user_field)
    if user is None:
        raise SessionsUnfit(
            f"{shape.collection} has no field {shape.user_field} that is read from a column of {table.name}",
            remedy="name the field with the session's user in sessions.user_field",
        )
    expires = _column(use, shape.expires_field)
    found = table.column(expires) if expires else None
    return SessionTable(
        table.schema,
        table.relation,
        user,
        expires if found is not None and found.type in _MOMENTS else None,
        use.where_sql,
    )


def _column(use: RowPlan, field: str) -> str | None:
    by_field = {name: column for name, column, _ in use.fields}
    by_reference = {name: parts[0][0] for name, parts, _ in use.references if len(parts) == 1}
    return by_field.get(field) or by_reference.get(field)
