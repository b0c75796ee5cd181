"""Flags behind an HTTP service, by the small contract of docs/flags.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx

from connectors.errors import FlagMoved, FlagRefused, ServerGone
from connectors.flags import Kept
from connectors.http import Service

_TOO_LARGE = 20_000_000


class FlagService:
    """GET /flags, GET /flags/NAME, PUT /flags/NAME with If-Match. token: sent as `Authorization: Bearer`."""

    def __init__(self, url: str, token: str | None = None, *, timeout_s: float = 10) -> None:
        service = Service(
            url, token, what="the address of the flag service", setting="flags.url", timeout_s=timeout_s
        )
        self._base = str(service.url.copy_with(query=None, fragment=None)).rstrip("/") + "/flags"
        self._http, self._shown = service.http, service.shown

    @property
    def where(self) -> str:
        """For people."""
        return f"the flag service at {self._shown}"

    def close(self) -> None:
        """End its connections."""
        self._http.close()

    def all(self) -> list[Kept]:
        """All flags; their versions are not known by this."""
        answer = self._ask("GET", self._base)
        flags = self._content(answer).get("flags")
        if not isinstance(flags, dict) or not all(isinstance(flag, dict) for flag in flags.values()):
            raise self._refused("does not answer with an object `flags` that has an object for each flag")
        return [Kept(name, flag, "") for name, flag in sorted(flags.items())]

    def read(self, name: str) -> Kept | None:
        """One of them."""
        answer = self._ask("GET", self._of(name), missing=True)
        if answer.status_code == 404:
            return None
        version = answer.headers.get("etag")
        if not version:
            raise self._refused("sends no ETag: nothing could be written without risk")
        return Kept(name, self._content(answer), version)

    def write(self, name: str, definition: Mapping[str, Any], based_on: str | None) -> None:
        """Write it where it is still as it was read."""
        when = {"If-None-Match": "*"} if based_on is None else {"If-Match": based_on}
        answer = self._ask("PUT", self._of(name), definition, when)
        if answer.status_code in (409, 412):
            raise FlagMoved(f"the flag {name} was changed in between", remedy="read it anew")

    def _of(self, name: str) -> str:
        return f"{self._base}/{quote(name, safe='')}"

    def _ask(
        self,
        method: str,
        url: str,
        content: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        missing: bool = False,
    ) -> httpx.Response:
        try:
            answer = self._http.request(
                method, url, json=None if content is None else dict(content), headers=dict(headers or {})
            )
        except httpx.HTTPError as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ServerGone(
                f"{self.where} cannot be reached: {said}", remedy="see to it, or correct flags.url"
            ) from None
        if answer.is_success or (missing and answer.status_code == 404):
            return answer
        if content is not None and answer.status_code in (409, 412):
            return answer
        what = f"answers {method} with status {answer.status_code}"
        if answer.is_server_error or answer.status_code in (408, 429):
            raise ServerGone(f"{self.where} {what}", remedy="see its log; a retry may help")
        if answer.status_code in (401, 403):
            raise FlagRefused(f"{self.where} {what}", remedy="correct flags.token or flags.token_file")
        raise self._refused(what)

    def _content(self, answer: httpx.Response) -> dict[str, Any]:
        if len(answer.content) > _TOO_LARGE:
            raise self._refused(f"answers with more than {_TOO_LARGE:,} bytes")
        try:
            content = answer.json()
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise self._refused("does not answer with JSON") from None
        if not isinstance(content, dict):
            raise self._refused("does not answer with a JSON object")
        return content

    def _refused(self, why: str) -> FlagRefused:
        return FlagRefused(
            f"{self.where} {why}", remedy="correct flags.url; docs/flags.md has what it has to answer"
        )
