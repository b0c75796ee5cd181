"""What is answered where something is refused: the same form as the commands' `--json`."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from connectors.errors import Kind, SyncError
from sync.dashboard.feed import encoded

#: of an action that was refused, by who acts next
_STATUS = {Kind.RETRY: 503, Kind.REFUSED: 409, Kind.USAGE: 409, Kind.PARK: 409, Kind.FATAL: 500}


def json_answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON document."""
    return Response(encoded(content), status, dict(headers or {}), "application/json")


def refusal(
    status: int, code: str, what: str, remedy: str = "", headers: Mapping[str, str] | None = None
) -> Response:
    """No, why, and what to do."""
    return json_answer({"error": code, "what": what, "remedy": remedy}, status, headers)


def refused(error: SyncError) -> Response:
    """An action's own refusal."""
    return json_answer(error.as_dict(), _STATUS[error.kind])


class Refusal(Exception):
    """Raised in a route for the answer that it carries."""

    def __init__(self, answer: Response) -> None:
        super().__init__(answer.status_code)
        self.answer = answer
