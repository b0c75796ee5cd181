"""Whether services answer, as a load balancer asks them."""

from __future__ import annotations

import httpx

_PATIENCE_S = 3.0


def answers(url: str) -> bool:
    """Whether a GET is answered with a status below 400, within a few seconds."""
    try:
        return httpx.get(url, timeout=_PATIENCE_S, follow_redirects=False).status_code < 400
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
