"""One document and its row, side by side at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from bson import ObjectId
from bson.datetime_ms import DatetimeMS

from connectors.mongo import client as mongo
from connectors.positions import Lsn
from connectors.postgres import client as postgres
from connectors.settings import SourceEndpoint, TargetEndpoint
from consumers.mapping.spec import Mapping_
from sync.verify import documents, rows
from sync.verify.canonical import decoded, described
from sync.verify.catalog import Catalog
from sync.verify.compare import SYNC
from sync.verify.expected import Key, reading
from sync.verify.expiry import may_be_gone
from sync.verify.judge import judge


@dataclass(frozen=True)
class Looked:
    """What was seen. lsn: PostgreSQL's, read before. there: there is a row, whether it passes the filter or not.
    expected: each field as it has to be, as text; None where no document is to be. found: each as it is; None where
    there is no document. differs: by place, what was expected and found there; the place `""` is the whole document.
    expires: when a TTL index lets go of it; gone: it may be gone by now."""

    lsn: Lsn
    there: bool
    expected: Mapping[str, str] | None
    found: Mapping[str, str] | None
    differs: Mapping[str, tuple[str, str]]
    expires_ms: int | None
    gone: bool


def look_at(
    mapping: Mapping_,
    source: SourceEndpoint,
    target: TargetEndpoint,
    collection: str,
    id_: Any,
    key: Key | None,
) -> Looked:
    """Compare one document with its row, as both are now."""
    with (
        closing(mongo.connect(target, name="tandem explain").client) as client,
        closing(postgres.connect(source, name="tandem explain")) as session,
    ):
        database = client.get_database(target.database, codec_options=mongo.CODEC)
        its = reading(collection, mapping, Catalog(session, mapping.keys()))
        lsn, now_ms = rows.lsn(session), rows.clock_ms(session)
        document = documents.these(database, collection, [id_]).get(documents.token(id_))
        keys = [key] if key is not None else []
        made = rows.look(session, its, keys)
        there = bool(rows.present(session, its, keys, filtered=False))
    fields, copy = (made[0].fields, made[0].copy) if made else (None, {})
    secret: frozenset[str] = getattr(its, "secret", frozenset())
    differences = judge(its, id_, key, fields, document, now_ms, copy)
    either = fields if fields is not None else document or {}
    return Looked(
        lsn=lsn,
        there=there,
        expected=None if fields is None else {n: _text(n, v, secret) for n, v in fields.items()},
        found=None
        if document is None
        else {
            name: _text(name, decoded(value), secret)
            for name, value in document.items()
            if name not in ("_id", SYNC)
        },
        differs={d.field or "": (d.expected or "", d.found or "") for d in differences},
        expires_ms=_expires(its.ttl, either),
        gone=may_be_gone(its.ttl, either, now_ms),
    )


def key_of(mapping: Mapping_, source: SourceEndpoint, collection: str, id_: ObjectId) -> Key | None:
    """The key behind an `_id` that is a hash: all keys of the table are gone through."""
    with closing(postgres.connect(source, name="tandem explain")) as session:
        its = reading(collection, mapping, Catalog(session, mapping.keys()))
        return rows.keys_of(session, its, [id_]).get(id_)


def _text(name: str, value: Any, secret: frozenset[str]) -> str:
    return "***" if any(name == place.split(".")[0] for place in secret) else described(value)


def _expires(ttl: tuple[tuple[str, int], ...], fields: Mapping[str, Any]) -> int | None:
    moments = [
        int(value) + seconds * 1_000
        for field, seconds in ttl
        if isinstance(value := fields.get(field), DatetimeMS)
    ]
    return min(moments, default=None)
