"""The codec of each PostgreSQL type. docs/types.md says what becomes of each."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from decimal import Decimal
from typing import Final
from uuid import UUID

from bson import Binary, Int64

from consumers.mapping import moments, rendered, values
from consumers.mapping.values import Codec, Convert


def _plain(
    wire: str,
    policies: Mapping[str, Convert | None],
    from_event: Convert | None = None,
    from_row: Convert | None = None,
    from_text: Convert | None = None,
    *,
    carried: bool = True,
    key: bool = False,
) -> Codec:
    return Codec("plain", wire, carried, from_event, from_row, policies, from_text, key)


_AS_TEXT: Final[dict[str, Convert | None]] = {"text": None}


def _whole(name: str, convert: Convert | None = None) -> dict[str, Convert | None]:
    return {name: convert, "text": str}


def _boolean_from_text(text: str) -> bool:
    return text == "t"


def _bytes_from_text(text: str) -> bytes:
    return bytes.fromhex(text[2:])


_DECIMALS: Final[dict[str, Convert | None]] = {
    "decimal": values.decimal_to_bson,
    "double": values.decimal_to_double,
    "text": rendered.numeric,
}
_DOUBLES: Final[dict[str, Convert | None]] = {"double": None, "text": rendered.double}
_VALUES: Final[dict[str, Convert | None]] = {"value": values.json_to_bson, "text": None}
_VECTORS: Final[dict[str, Convert | None]] = {
    "array": None,
    "binary": values.vector_to_binary,
    "text": values.vector_to_text,
}
_INT64_OF_OID = Codec("oid", "oid", False, None, None, _whole("int64", Int64), int)
#: any type not named here: PostgreSQL's text of it, read from the row
OTHER = Codec("text", "text", False, None, None, _AS_TEXT)
#: the same, and events carry it as PostgreSQL writes it
_CARRIED_TEXT = Codec("text", "text", True, None, None, _AS_TEXT)

CODECS: Final[dict[str, Codec]] = {
    "smallint": _plain("int2", _whole("int32"), from_text=int, key=True),
    "integer": _plain("int4", _whole("int32"), from_text=int, key=True),
    "bigint": _plain("int8", _whole("int64", Int64), from_text=int, key=True),
    "oid": _plain("oid", _whole("int64", Int64), from_text=int, key=True),
    "xid": Codec("text", "text", False, None, int, _whole("int64", Int64), int),
    "cid": Codec("text", "text", False, None, int, _whole("int64", Int64), int),
    "xid8": Codec("text", "text", False, None, int, _whole("int64", values.xid8_to_bson), int),
    "boolean": _plain("bool", {"bool": None, "text": rendered.boolean}, from_text=_boolean_from_text),
    "double precision": _plain("float8", _DOUBLES, values.float_from_event, None, float),
    "real": _plain(
        "float4", {"double": None, "text": rendered.real}, values.float4_from_event, None, values.float4_from_event
    ),
    # as text: the driver takes seconds for the binary form of 100,000 digits
    "numeric": Codec("text", "text", True, values.decimal_from_event, Decimal, _DECIMALS, Decimal),
    # Debezium sends it with 2046 digits behind the point
    "numeric of negative scale": Codec("text", "text", False, None, Decimal, _DECIMALS, Decimal),
    # its text depends on lc_monetary; PostgreSQL itself knows how many digits are behind the point
    "money": Codec("numeric::text", "text", False, None, Decimal, _DECIMALS, Decimal),
    "text": _plain("text", _AS_TEXT, key=True),
    "character varying": _plain("varchar", _AS_TEXT, key=True),
    "character": _plain("bpchar", _AS_TEXT, key=True),
    "name": _plain("name", _AS_TEXT),
    '"char"': _CARRIED_TEXT,
    "citext": _CARRIED_TEXT,
    "enum": Codec("text", "text", True, None, None, _AS_TEXT, key=True),
    "uuid": _plain("uuid", _whole("binary", Binary.from_uuid), UUID, None, UUID, key=True),
    "json": _plain("bytea", _VALUES, None, values.json_from_row),
    "jsonb": _plain("bytea", _VALUES, None, values.jsonb_from_row),
    "bytea": _plain(
        "bytea", {"binary": bytes, "text": rendered.binary}, base64.b64decode, bytes, _bytes_from_text
    ),
    "timestamp with time zone": _plain(
        "int8",
        moments.INSTANTS,
        moments.instant_from_event,
        moments.instant_from_row,
        moments.instant_from_text,
    ),
    "timestamp without time zone": _plain(
        "int8",
        moments.LOCAL,
        moments.timestamp_from_event,
        moments.instant_from_row,
        moments.instant_from_text,
    ),
    "date": _plain("int4", moments.DATES, moments.date_from_event, moments.date_from_row, moments.date_from_text),
    "time without time zone": _plain(
        "int8", moments.TIMES, None, None, moments.time_from_text
    ),
    # a cast of them to text adds a netmask
    "inet": Codec("output", "text", True, None, None, _AS_TEXT),
    "cidr": Codec("output", "text", True, None, None, _AS_TEXT),
    "macaddr": _CARRIED_TEXT,
    "macaddr8": _CARRIED_TEXT,
    "ltree": _CARRIED_TEXT,
    "tsvector": _CARRIED_TEXT,
    # their names depend on search_path, and change without an event
    **dict.fromkeys(
        (
            "regclass", "regcollation", "regconfig", "regdictionary", "regnamespace", "regoper",
            "regoperator", "regproc", "regprocedure", "regrole", "regtype",
        ),
        _INT64_OF_OID,
    ),
    "vector": _plain("bytea", _VECTORS, None, values.vector_from_row, values.vector_from_text, carried=False),
    "halfvec": _plain("bytea", _VECTORS, None, values.halfvec_from_row, values.vector_from_text, carried=False),
}  # fmt: skip
