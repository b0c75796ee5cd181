"""What the holders of a collection's tables say of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from connectors.mongo import ledger


def phase_of(holders: Iterable[str | None]) -> str:
    """not set up, unloaded, loading, reloading, swapping or streaming. holders: of each partition of its tables, None:
    nobody."""
    holders = list(holders)
    if not holders:
        return "not set up"
    held = [holder for holder in holders if holder]
    if not held:
        return "streaming"
    if ledger.UNLOADED in held:
        return "unloaded"
    if any(holder.startswith(ledger.SWAP) for holder in held):
        return "swapping"
    return "reloading" if any(holder.startswith(ledger.WALK) for holder in held) else "loading"
