"""Addresses of services that are spoken to by HTTP, with a token where they want one."""

from __future__ import annotations

import httpx

from connectors.errors import SettingsInvalid


class Service:
    """A client for one address. what: names it in errors; setting: where it comes from. token: sent as
    `Authorization: Bearer`. Raises SettingsInvalid for what is no address."""

    def __init__(self, url: str, token: str | None, *, what: str, setting: str, timeout_s: float) -> None:
        try:
            address = httpx.URL(url.strip())
        except httpx.InvalidURL:
            address = httpx.URL("")
        if address.scheme not in ("http", "https") or not address.host:
            raise SettingsInvalid(
                f"{what} cannot be read (it is not shown here: it may hold a secret)",
                remedy=f"give {setting} as http://host/path or https://host/path",
            )
        self.url = address
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # a redirect would carry the token elsewhere
        self.http = httpx.Client(headers=headers, timeout=timeout_s, follow_redirects=False)
        #: as it may be shown: a path, a query or a user in it may be the secret
        self.shown = f"{address.scheme}://{address.host}" + (f":{address.port}" if address.port else "")
