"""Telling somebody by HTTP: one POST of a JSON document."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from connectors.errors import ServerGone, WebhookRefused
from connectors.http import Service


class Webhook:
    """An address that takes notices. token: sent as `Authorization: Bearer`."""

    name = "webhook"

    def __init__(self, url: str, token: str | None = None, *, timeout_s: float = 10) -> None:
        service = Service(
            url, token, what="the webhook's address", setting="sessions.webhook_url", timeout_s=timeout_s
        )
        self._url, self._http, self.address = service.url, service.http, service.shown

    def close(self) -> None:
        """End its connections."""
        self._http.close()

    def check(self) -> None:
        """Raise ServerGone where nobody answers there. Sends no notice: any answer to a HEAD will do."""
        try:
            self._http.head(self._url)
        except httpx.HTTPError as error:
            raise self._gone(error) from None

    def send(self, id_: str, notice: Mapping[str, object]) -> None:
        """POST a notice. id_: goes along as `Idempotency-Key`, the same when it is sent again.

        Raises ServerGone where a later try may help (no answer, 5xx, 429, 408), else WebhookRefused.
        """
        try:
            answer = self._http.post(self._url, json=dict(notice), headers={"Idempotency-Key": id_})
        except httpx.HTTPError as error:
            raise self._gone(error) from None
        if answer.is_success:
            return
        what = f"the webhook at {self.address} answers with status {answer.status_code}"
        if answer.is_server_error or answer.status_code in (408, 429):
            raise ServerGone(what, remedy="see its log")
        raise WebhookRefused(what, remedy="correct sessions.webhook_url, or its token")

    def _gone(self, error: httpx.HTTPError) -> ServerGone:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        return ServerGone(
            f"the webhook at {self.address} cannot be reached: {said}",
            remedy="start it, or correct sessions.webhook_url",
        )
