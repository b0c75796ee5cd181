"""Values of BSON as text for people, in the words of MongoDB's shell: values of two types never look the same. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from bson import Binary, Decimal128, Int64, ObjectId
from bson.binary import UUID_SUBTYPE
from bson.datetime_ms import DatetimeMS


def shown(value: Any) -> str:
    """All of a value. Whole numbers are int32, those with a point doubles."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {shown(member)}" for name, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(shown(element) for element in value) + "]"
    if isinstance(value, Int64):
        return f"NumberLong({int(value)})"
    if isinstance(value, ObjectId):
        return f"ObjectId('{value}')"
    if isinstance(value, Decimal128):
        return f"NumberDecimal('{value}')"
    if isinstance(value, DatetimeMS | datetime):
        return f"ISODate('{_iso(int(value if isinstance(value, DatetimeMS) else DatetimeMS(value)))}')"
    if isinstance(value, UUID):
        return f"UUID('{value}')"
    if isinstance(value, bytes):
        subtype = value.subtype if isinstance(value, Binary) else 0
        if subtype == UUID_SUBTYPE and len(value) == 16:
            return f"UUID('{UUID(bytes=bytes(value))}')"
        return f"BinData({subtype}, '{value.hex()}')"
    return repr(value)


def short(value: Any, width: int = 160) -> str:
    """The same, cut where it is long."""
    text = shown(value)
    return text if len(text) <= width else f"{text[:width]}… ({len(text):,} characters)"


def _iso(ms: int) -> str:
    try:
        moment = datetime.fromtimestamp(ms // 1_000, UTC).replace(microsecond=ms % 1_000 * 1_000)
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
