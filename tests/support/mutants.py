"""Clauses of the write rule, broken one at a time in our own code, so that a test can show that somebody notices.

A mutant is a piece of source text replaced in one function. When the text is no longer there the clause has moved:
mend the mutant with it. `needs` are features of the histories in which the clause matters.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from unittest.mock import patch

from tests.support.simulation import BADGES, FILES, MEMBERS, TEAMS


@dataclass(frozen=True)
class Mutant:
    """place: `module:name` or `module:Class.name`. clause: of docs/write-rule.md. seeds: so many histories may try.

    also: a second change, where two clauses guard the same thing. rare: found in less than one history of a
    hundred, so it is looked for by `--thorough` only. survives: why no history of ours can show it. first: the
    seed to begin with, where few show it. tests: unit tests that notice, where no history is needed for it.
    """

    name: str
    clause: int
    place: str
    old: str
    new: str
    needs: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()
    mood: Mapping[str, Any] = field(default_factory=dict, hash=False)
    seeds: int = 2_000
    also: tuple[str, str, str] | None = None
    rare: bool = False
    survives: str = ""
    first: int = 0
    tests: tuple[str, ...] = ()


@contextmanager
def broken(mutant: Mutant) -> Iterator[None]:
    """With one clause broken."""
    changes = [(mutant.place, mutant.old, mutant.new), *([mutant.also] if mutant.also else [])]
    with ExitStack() as stack:
        for place, old, new in changes:
            module, owner, name = _place(place)
            source = _source(place)
            if source.count(old) != 1:
                raise ValueError(f"{mutant.name}: {place} has no longer just one {old!r}: mend this mutant")
            scope: dict[str, Any] = {}
            exec(compile(source.replace(old, new), place, "exec"), vars(module), scope)
            if owner is not module:
                stack.enter_context(patch.object(owner, name, scope[name]))
                continue
            original = getattr(owner, name)
            for other in _ours():  # which have imported it by name
                if vars(other).get(name) is original:
                    stack.enter_context(patch.object(other, name, scope[name]))
        yield


def named(name: str) -> Mutant:
    """The mutant of this name."""
    return next(mutant for mutant in (*MUTANTS, *PURE) if mutant.name == name)


def _place(place: str) -> tuple[Any, Any, str]:
    module_name, _, path = place.partition(":")
    module = owner = importlib.import_module(module_name)
    *classes, name = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    return module, owner, name


@cache
def _source(place: str) -> str:
    _, owner, name = _place(place)
    return textwrap.dedent(inspect.getsource(inspect.getattr_static(owner, name)))


def _ours() -> list[Any]:
    packages = {"connectors", "consumers", "sync", "tests"}
    return [found for name, found in list(sys.modules.items()) if name.partition(".")[0] in packages]


def _set(*names: str) -> frozenset[str]:
    return frozenset(names)


#: moods of histories in which rare meetings are likely
_ZOMBIES = {"busy": 0.2, "moves": 10.0, "pauses": 20, "partitions": 2, "tables": (TEAMS,), "width": 2}
_FAMILY = {"busy": 0.2, "partitions": 2, "tables": (TEAMS, MEMBERS), "width": 2, "pauses": 2, "moves": 0.0}
_DEEP = {**_FAMILY, "tables": (TEAMS, MEMBERS, BADGES)}
_EMPTIED = {"tables": (MEMBERS,), "width": 2, "partitions": 3}
_PARKING = {"busy": 0.4, "partitions": 2, "width": 2, "pauses": 6}
_BARE = _set("load", "bad", "tagged", "gone", "lost answer", "repeat", "markers", "unique", "truncate")


_LEDGER, _WORKER, _WRITE = "connectors.mongo.ledger", "consumers.worker:Worker", "consumers.apply.write"
_DECIDE, _LOAD = "consumers.apply.decide", "sync.snapshot.load"
_RELOAD, _WALK, _RENEW = "sync.snapshot.reload", "sync.snapshot.walk", "sync.setup.renew"
_LOST = _set("lost slot", "delete", "flip")
_LETTERS, _PARKED = "consumers.dead_letters", "connectors.mongo.parked"
_RENEWED = ("tests/unit/test_renew.py",)
_RACES = ("tests/unit/test_interleaved.py::test_rare_races",)
_ARRAYS, _COPIES, _JOBS = "consumers.apply.arrays", "consumers.apply.copies", "consumers.apply.jobs"

MUTANTS = (
    # 1: the position lies in the transaction of the rows
    Mutant(
        "position: no compare",
        1,
        f"{_LEDGER}:advance",
        "position.at != start",
        "False",
        needs=_set("rebalance", "zombie"),
        without=_BARE,
        mood=_ZOMBIES,
        first=250,
    ),
    Mutant(
        "position: not in the transaction",
        1,
        f"{_LEDGER}:advance",
        "tx.bulk(POSITIONS, writes)",
        "[tx._store.db[POSITIONS].update_one(w._filter, w._doc) for w in writes]",
    ),
    Mutant(
        "position: read, not written",
        1,
        f"{_LEDGER}:advance",
        "tx.bulk(POSITIONS, writes)",
        "None",
    ),
    Mutant(
        "seek to Kafka's offsets",
        1,
        f"{_WORKER}._positions",
        "found[p].at if found[p].holder is None else None",
        "self.stream._group.told.get(p, 0) if found[p].holder is None else None",
    ),
    Mutant("after an error: not placed again", 1, f"{_WORKER}._forget", "self._generation, ", "_, "),
    # 2: what is applied is visible
    Mutant(
        "visible: not waited for",
        2,
        f"{_WORKER}._await_visible",
        "while unseen:",
        "while False:",
        needs=_set("flip", "delete", "rekey"),
        without=_set("load", "bad", "truncate"),
        mood={"width": 2},
        first=141,
    ),
    Mutant(
        "visible: every id is old",
        2,
        f"{_WORKER}._is_old",
        "self._seen.full_id(tx) < self._seen.xmin",
        "True",
        needs=_set("flip", "delete", "rekey"),
        without=_set("load", "bad", "truncate"),
        mood={"width": 2},
        first=81,
    ),
    # 3: never a blind replace
    Mutant(
        "unsent: replaced",
        3,
        f"{_WRITE}:RowWriter._document_writes",
        '"replace" if new else "set"',
        '"replace"',
    ),
    Mutant("unsent: staged row replaced", 3, f"{_WRITE}:RowWriter.staged", "row.whole or not known", "True"),
    Mutant(
        "absent: not read",
        3,
        f"{_WRITE}:RowWriter._absent_are_read",
        "if found_id not in there",
        "if False",
        first=69,
    ),
    Mutant(
        "a create that lacks a value is not read",
        3,
        f"{_DECIDE}:decide",
        "(create and missing)",
        "False",
        survives="a document has to be there that a later reading has made: 1 in 5,000 in the model",
        tests=("tests/unit/test_decide.py",),
    ),
    Mutant("fold: Gone is forgotten", 3, f"{_DECIDE}:merge", "return op\n", "return before\n"),
    Mutant(
        "fold: a part after Gone is not read",
        3,
        f"{_DECIDE}:merge",
        "replace(op, create=True) if op.whole else Read(op.key, True, op.at, op.lsn)",
        "replace(op, create=True)",
        survives="a part follows a delete only in a repeated suffix that begins there",
        tests=("tests/unit/test_fold.py",),
    ),
    Mutant(
        "fold: earlier values are forgotten",
        3,
        f"{_DECIDE}:merge",
        "{**before.natives, **op.natives}",
        "op.natives",
    ),
    Mutant(
        "fold: a part after a Read drops it",
        3,
        f"{_DECIDE}:merge",
        "else replace(before, at=op.at, lsn=op.lsn)",
        "else op",
        survives="what drops the reading finds no document, and reads",
        tests=("tests/unit/test_fold.py",),
    ),
    # 4: filters have transitions
    Mutant(
        "leaving is no delete",
        4,
        f"{_WRITE}:RowWriter._documents",
        "isinstance(op, Put) and use.inside(op.natives, now)",
        "isinstance(op, Put)",
    ),
    Mutant(
        "leaving is no delete of a staged row",
        4,
        f"{_WRITE}:RowWriter._stage",
        "None if not isinstance(op, Put) or not use.inside(op.natives, now) else op",
        "None if not isinstance(op, Put) else op",
    ),
    # 5: a table has one owner
    Mutant(
        "held: written all the same",
        5,
        f"{_LEDGER}:advance",
        "position.holder is not None",
        "False",
        _set("load"),
        also=(f"{_WORKER}._positions", "found[p].at if found[p].holder is None else None", "found[p].at"),
    ),
    Mutant(
        "a hold is not looked at again",
        5,
        f"{_WORKER}._look_at_holds",
        "if held and",
        "if False and",
        _set("load"),
    ),
    Mutant(
        "a robbed loader writes on",
        5,
        f"{_LEDGER}:claim",
        'if tx.update(CLAIMS, {"_id": worker}, {"$inc": {"n": Int64(1)}}) != 1:',
        "if False:",
        _set("load"),
    ),
    Mutant(
        "a claim is read, not written",
        5,
        f"{_LEDGER}:claim",
        'if tx.update(CLAIMS, {"_id": worker}, {"$inc": {"n": Int64(1)}}) != 1:',
        'if not tx.find(CLAIMS, {"_id": worker}):',
        _set("load"),
        survives="what a robbed loader leaves behind, the stream brings in line; a heal could not",
    ),
    Mutant(
        "what an earlier pipeline left stays",
        5,
        f"{_LOAD}:Loader._chunks",
        "self._empty(name)",
        "pass",
        _set("load", "leftovers"),
    ),
    Mutant(
        "a chunk begun before is taken for new",
        5,
        f"{_LOAD}:_ChunkLoad.__init__",
        "self.fresh = chunk.tries == 0",
        "self.fresh = True",
        _set("load", "crash"),
        _set("bad"),
        first=1282,
    ),
    # 6: rows read later
    Mutant(
        "a later snapshot: not waited for",
        6,
        f"{_LOAD}:Loader._snapshot",
        "await_shown(session)",
        "pass",
        _set("load", "crash", "gone"),
        survives="a commit has to stay invisible from before the slot until a second load: 1 in 600 in the model",
    ),
    Mutant(
        "walk: only the rows' side",
        6,
        f"{_WALK}:Walk._left_over",
        "self._write(some)",
        "pass",
        _LOST,
        _set("bad"),
    ),
    Mutant(
        "walk: only the documents' side",
        6,
        f"{_WALK}:Walk._put",
        "if keys:",
        'if keys and self.part.what != "rows":',
        _LOST,
        _set("bad"),
    ),
    Mutant(
        "walk: what is parked is not settled",
        6,
        f"{_WALK}:Walk._put",
        'tx.delete(ledger.PARKED, {"_id": {"$in": settled}})',
        "None",
        _set("lost slot", "bad"),
        _set("unique"),
        survives="what is parked is retried at the end of a history: tests/integration/test_reload.py",
    ),
    Mutant(
        "walk: a robbed one writes on",
        5,
        f"{_WALK}:Walk._transact",
        "ledger.claim(tx, self.claim)",
        "None",
        _set("lost slot", "crash", "delete"),
        _set("bad"),
        mood={"busy": 0.4, "pauses": 20},
        rare=True,
    ),
    Mutant(
        "walk: who was robbed keeps the claim",
        5,
        f"{_LEDGER}:take_from_anyone",
        'tx.delete(CLAIMS, {"run": {"$in": sorted(str(holder) for holder in robbed)}})',
        "None",
        _set("lost slot", "crash", "delete"),
        _set("bad"),
        mood={"busy": 0.4, "pauses": 20},
        rare=True,
    ),
    Mutant(
        "walk: parts of the one before count, also of another walk",
        6,
        f"{_RELOAD}:Reload._take",
        "was_held if ends is None else set()",
        "set(self._tables)",
        _set("lost slot", "crash", "delete"),
        _set("bad"),
    ),
    Mutant(
        "walk: nobody waits until all is shown",
        6,
        f"{_RELOAD}:Reload.walk",
        "await_shown(session)",
        "None",
        _LOST,
        _set("bad"),
        rare=True,
    ),
    Mutant(
        "heal: what the old slot sent is applied",
        6,
        f"{_LEDGER}:take_from_anyone",
        "ends.get(position.partition, 0)",
        "0",
        _LOST,
        _set("bad"),
        also=(f"{_LEDGER}:move_to", "ends.get(position.partition, 0)", "0"),
    ),
    Mutant(
        "heal: the slot comes before the hold",
        6,
        f"{_RENEW}:replace_slot",
        "take(ends())\n    begins = make()\n    start()",
        "found = ends()\n    begins = make()\n    take(found)\n    start()",
        _LOST,
        _set("bad"),
    ),
    Mutant(
        "heal: a reload lets go what one that died has left held",
        6,
        f"{_RELOAD}:Reload._take",
        "ledger.healed_to(tx) not in (None, False, ledger.NEW_SLOT)",
        "False",
        rare=True,
        tests=_RENEWED,
    ),
    Mutant(
        "a load takes a walk's hold",
        5,
        f"{_LEDGER}:take",
        "position.holder is None or not position.holder.startswith(takes_over)",
        "False",
        _set("lost slot", "load", "crash", "delete"),
        _set("bad"),
        also=(f"{_LOAD}:Loader._groups_to_load", '(p.holder or "").startswith(_LOAD)', "p.holder"),
    ),
    # 7: truncate
    Mutant(
        "truncate: a mark in one partition",
        7,
        f"{_LEDGER}:mark",
        '"$inc": {"touched": Int64(1)}}, many=True',
        '"$inc": {"touched": Int64(1)}}, many=False',
        needs=_set("truncate"),
        without=_set("load", "bad"),
        mood=_EMPTIED,
        first=52,
    ),
    Mutant(
        "truncate: events below the mark count",
        7,
        f"{_WORKER}._apply",
        "event.op is not Operation.TOMBSTONE and event.lsn < marks[record.home]",
        "False",
        needs=_set("truncate"),
        without=_set("load", "bad"),
        mood=_EMPTIED,
        first=148,
    ),
    Mutant(
        "truncate: no job",
        7,
        f"{_WORKER}._truncate",
        "ledger.record_job(tx, event.table, lsn)",
        "pass",
        needs=_set("truncate"),
        without=_set("load", "bad"),
        mood=_EMPTIED,
    ),
    Mutant(
        "truncate: what is newer goes too",
        7,
        f"{_WRITE}:RowWriter.remove_below",
        ', use.stamp: {"$lt": Int64(lsn)}',
        "",
        needs=_set("truncate"),
        without=_set("load", "bad"),
        mood=_EMPTIED,
        rare=True,
        first=410,
    ),
    Mutant(
        "truncate: a new job is struck with the old",
        7,
        f"{_LEDGER}:still",
        ', "serial": Int64(job.serial)',
        "",
        needs=_set("truncate"),
        without=_set("load", "bad"),
        mood=_EMPTIED,
        rare=True,
    ),
    Mutant(
        "truncate: arrays stay",
        7,
        f"{_WRITE}:RowWriter.remove_below",
        "arrays.remake()",
        "pass",
        needs=_set("truncate"),
        without=_set("load", "bad"),
        mood={**_EMPTIED, "tables": (TEAMS, MEMBERS)},
        first=36,
    ),
    Mutant(
        "a row read later has its event's lsn",
        7,
        f"{_WRITE}:RowWriter._read",
        "max(lsn, old.lsn)",
        "old.lsn",
        needs=_set("truncate", "unique", "swap"),
        without=_set("load", "bad"),
        mood={"tables": (TEAMS,), "width": 3, "partitions": 3},
    ),
    # 9: embedding
    Mutant(
        "anchors: none",
        9,
        f"{_ARRAYS}:Arrays._anchor",
        'self._anchors.want(f"{place}/{row}")',
        "pass",
        needs=_set("flip", "delete"),
        without=_BARE,
        mood=_FAMILY,
        first=385,
    ),
    Mutant(
        "anchors: not for a child's parents",
        9,
        f"{_ARRAYS}:Arrays.changed",
        "self._anchor(use.home, parent)",
        "pass",
        needs=_set("flip", "delete"),
        without=_BARE,
        mood=_FAMILY,
        rare=True,
    ),
    Mutant(
        "anchors: not for a parent itself",
        9,
        f"{_ARRAYS}:Arrays.come",
        "self._anchor(collection, parent)",
        "pass",
        also=(f"{_ARRAYS}:Arrays.gone", "self._anchor(collection, parent)", "pass"),
        needs=_set("flip", "delete"),
        without=_BARE,
        mood=_FAMILY,
        rare=True,
    ),
    Mutant(
        "the old parent's array stays",
        9,
        f"{_WRITE}:RowWriter._stage",
        "arrays.changed(use, parents.get(_id))",
        "None",
    ),
    Mutant(
        "a new parent starts without children",
        9,
        f"{_ARRAYS}:Arrays.come",
        ".update(self._plan.arrays[collection])",
        "",
    ),
    Mutant(
        "what is inside of an element changes, the document's array stays",
        9,
        f"{_ARRAYS}:Arrays.go_up",
        'self.changed(use, staged["p"])',
        "pass",
        needs=_set("deep"),
        mood={"tables": (TEAMS, MEMBERS, BADGES)},
    ),
    Mutant(
        "elements are remade without what is inside of them",
        9,
        f"{_ARRAYS}:inner_arrays",
        "element[array] = made.get(row, [])",
        "element[array] = []",
        needs=_set("deep"),
    ),
    Mutant(
        "anchors: an element that comes, goes or moves has none",
        9,
        f"{_ARRAYS}:Arrays.moved",
        "self._anchor(use.place, row)",
        "pass",
        needs=_set("deep", "flip", "delete"),
        without=_BARE,
        mood=_DEEP,
        rare=True,
        tests=_RACES,
    ),
    Mutant(
        "anchors: an element has none for what is inside of it",
        9,
        f"{_ARRAYS}:Arrays.changed",
        "self._anchor(use.home, parent)",
        "use.home in self._plan.documents and self._anchor(use.home, parent)",
        needs=_set("deep", "flip", "delete"),
        without=_BARE,
        mood=_DEEP,
        rare=True,
        tests=_RACES,
    ),
    Mutant(
        "loaded: documents before what is inside of their elements",
        9,
        f"{_LOAD}:Loader._work",
        "for staged in (True, False):",
        "for staged in (False, True):",
        needs=_set("deep", "load"),
    ),
    Mutant(
        "copies: a document keeps those of its old parent",
        9,
        f"{_COPIES}:Copies.pointing",
        '!= (there.get("_sync") or {}).get("copy", {}).get(field, _UNKNOWN)',
        "!= _UNKNOWN and not there",
        needs=_set("deep"),
    ),
    Mutant(
        "copies: a parent that changes reaches nobody",
        9,
        f"{_COPIES}:Copies.settle",
        "self._copy(collection, field, parent, values[parent])",
        "pass",
        needs=_set("deep"),
    ),
    Mutant(
        "copies: no job",
        9,
        f"{_COPIES}:Copies.settle",
        "ledger.record_copy(self._tx, collection, field, parent)",
        "pass",
        needs=_set("deep"),
    ),
    Mutant(
        "copies: a document writes no anchor",
        9,
        f"{_COPIES}:Copies.pointing",
        "if parent is not None:",
        "if False:",
        needs=_set("deep", "flip", "delete"),
        without=_BARE,
        mood={**_DEEP, "tables": (TEAMS, FILES)},
        tests=_RACES,
    ),
    Mutant(
        "copies: a parent writes no anchors",
        9,
        f"{_COPIES}:Copies.changed",
        "for slot in range(SLOTS):",
        "for slot in ():",
        needs=_set("deep", "flip", "delete"),
        without=_BARE,
        mood={**_DEEP, "tables": (TEAMS, FILES)},
        tests=_RACES,
    ),
    Mutant(
        "copies: a parent writes one anchor of all",
        9,
        f"{_COPIES}:Copies.changed",
        "for slot in range(SLOTS):",
        "for slot in (0,):",
        needs=_set("deep", "flip", "delete"),
        without=_BARE,
        mood={**_DEEP, "tables": (TEAMS, FILES)},
        rare=True,
        tests=_RACES,
    ),
    Mutant(
        "copies: what looks right is not written",
        9,
        f"{_COPIES}:copied_anew",
        ', "$inc": {"_sync.copied": Int64(1)}',
        "",
        needs=_set("deep", "flip", "delete"),
        without=_BARE,
        mood={**_DEEP, "tables": (TEAMS, FILES)},
        rare=True,
        tests=_RACES,
    ),
    Mutant(
        "jobs: one that is late strikes the new one",
        9,
        f"{_LEDGER}:_serial",
        "Int64(secrets.randbits(62))",
        "Int64(1)",
        needs=_set("deep", "flip", "delete"),
        without=_BARE,
        mood={**_DEEP, "tables": (TEAMS, FILES)},
        rare=True,
        tests=_RACES,
    ),
    Mutant(
        "copies: a truncated parent stays in its children",
        9,
        f"{_WRITE}:RowWriter.remove_below",
        "copies.settle()",
        "pass",
        needs=_set("deep", "truncate"),
        mood={"tables": (TEAMS, MEMBERS), "width": 2},
    ),
    Mutant(
        "jobs: by a snapshot from before the job",
        9,
        f"{_JOBS}:Jobs._demand",
        "if not ledger.still(tx, job):",
        "if False:",
        needs=_set("deep", "flip", "delete"),
        without=_BARE,
        mood={**_DEEP, "tables": (TEAMS, FILES)},
        rare=True,
        tests=("tests/unit/test_jobs.py::test_a_snapshot_from_before_the_job",),
    ),
    Mutant(
        "jobs: one that is recorded anew ends where it is",
        9,
        f"{_JOBS}:_Circle.anew",
        "self.last is None)",
        "True)",
        needs=_set("deep", "flip", "delete"),
        without=_BARE,
        mood={**_DEEP, "tables": (TEAMS, FILES)},
        rare=True,
        tests=("tests/unit/test_jobs.py::test_a_parent_that_is_written_all_the_time",),
    ),
    Mutant(
        "copies: not loaded",
        9,
        f"{_COPIES}:fill_held",
        "document[field] = staged.get(parent)",
        "document[field] = None",
        needs=_set("deep", "load"),
    ),
    # 10: parked
    Mutant(
        "dropped, not parked",
        10,
        f"{_LETTERS}:Parking.alone",
        "parked.park(",
        "(lambda *_, **__: None)(",
        _set("bad"),
    ),
    Mutant(
        "parked: without halving",
        10,
        f"{_WORKER}._consume",
        "if len(part) > 1:",
        "if False:",
        _set("bad"),
        first=50,
    ),
    Mutant(
        "parked: what comes later is applied",
        10,
        f"{_WORKER}._apply",
        "if row_id in behind:",
        "if False:",
        _set("bad"),
        survives="it is tried again all the same, and read then: parking behind is for readers",
    ),
    Mutant(
        "behind: not to be tried again",
        10,
        f"{_PARKED}:park_behind",
        '"due": True',
        '"due": False',
        _set("bad", "crash"),
    ),
    Mutant("heal: never", 10, f"{_WORKER}._heal", "if not ready:", "if True:", _set("bad")),
    Mutant(
        "heal: forgotten with the worker that knew",
        10,
        f"{_WORKER}._place",
        "parked.due(self.transactions.db, [p.id for p in mine]) if mine else ()",
        "()",
        _set("bad", "crash", "rebalance"),
    ),
    Mutant(
        "heal: a failed try is the last, whatever came meanwhile",
        10,
        f"{_PARKED}:failed",
        ', "count": Int64(count)',
        "",
        _set("bad", "retry"),
        mood=_PARKING,
        survives="the worker that has put the event behind knows of it too: it would have to die just then",
    ),
    Mutant(
        "truncate: what was parked stays",
        10,
        f"{_JOBS}:Jobs._end_truncate",
        "parked.void_below(tx, job.table, job.lsn)",
        "pass",
        needs=_set("truncate", "bad"),
        without=_set("load"),
        mood={"width": 2},
        first=1993,
    ),
    Mutant(
        "truncate: what was parked later goes too",
        10,
        f"{_PARKED}:void_below",
        ', "lsn": {"$lt": Int64(lsn)}',
        "",
        needs=_set("truncate", "bad"),
        without=_set("load"),
        mood={"width": 2},
    ),
    Mutant(
        "retry: nothing is settled",
        10,
        f"{_LETTERS}:Settler._together",
        "parked.settled(tx, [i for row in still for i in row.ids])",
        "pass",
        _set("bad"),
    ),
    Mutant(
        "retry: settled, not written",
        10,
        f"{_LETTERS}:Settler._together",
        "self._writer.apply(tx, ops, careful=careful)",
        "pass",
        _set("bad"),
    ),
    Mutant(
        "retry: what others have settled is written all the same",
        10,
        f"{_LETTERS}:Settler._together",
        "if any(i in counts for i in row.ids)]",
        "]",
        _set("bad", "retry"),
        mood=_PARKING,
        survives="the row is read in a transaction that has written its positions: it is as right as the first time",
    ),
    Mutant(
        "retry: while the table is held",
        10,
        f"{_LETTERS}:Settler._together",
        "ledger.touch(tx, partitions, self._plan.follows)",
        'tx.update(ledger.POSITIONS, {"_id": partitions[0].id}, {"$inc": {"touched": 1}})',
        _set("bad", "retry", "load"),
        survives="what a load has parked it does not write again; tests/unit/test_dead_letters.py shows it",
    ),
    Mutant(
        "retry: positions are not written",
        10,
        f"{_LETTERS}:Settler._together",
        "ledger.touch(tx, partitions, self._plan.follows)",
        "None",
        _set("bad", "retry"),
        _set("load"),
        mood=_PARKING,
        survives="who writes a parked row writes what is parked of it too, and conflicts there; a record without a key"
        " has no such guard, and no history has one",
    ),
    Mutant(
        "retry: rows tied by a unique value are not found",
        10,
        "consumers.apply.attempt:attempt",
        "if not careful:",
        "if False:",
        _set("bad", "unique", "swap"),
        _set("load"),
        survives="the worker has mostly untied them before: tests/unit/test_dead_letters.py",
    ),
    # 11: unique values
    Mutant(
        "careful: never",
        11,
        f"{_WORKER}._consume",
        "isinstance(trouble, UniqueTaken) and not careful",
        "False",
        _set("unique"),
        _set("bad"),
    ),
    Mutant(
        "careful: nothing is tied",
        11,
        "consumers.apply.untangle:tied",
        "return found\n",
        "return {}\n",
        _set("unique"),
        _set("bad"),
    ),
    Mutant(
        "careful: not removed first",
        11,
        f"{_WRITE}:RowWriter._documents",
        "remove = careful and",
        "remove = False and",
        _set("unique"),
        _set("bad"),
    ),
    Mutant(
        "careful: the others are not read",
        11,
        "consumers.apply.untangle:tied",
        'found[holder["_id"]] = key_of_document(use, holder)',
        "pass",
        _set("unique"),
        _set("bad"),
    ),
    Mutant(
        "careful: a part is not read",
        11,
        f"{_WRITE}:RowWriter._untangle",
        "partial = {op.key for op in of.values() if isinstance(op, Put) and not op.whole}",
        "partial = set()",
        _set("unique"),
    ),
)

#: what the pure modules decide, where a unit test is enough to notice
_FOLD, _IDS, _PLAN = ("tests/unit/test_fold.py",), ("tests/unit/test_ids.py",), ("tests/unit/test_plan.py",)
_ENVELOPE, _POSITIONS = ("tests/unit/test_envelope.py",), ("tests/unit/test_positions.py",)
_DECIDES = ("tests/unit/test_decide.py",)
_CHUNKS, _FILTERS = ("tests/unit/test_chunks.py",), ("tests/unit/test_filters.py", "tests/unit/test_plan.py")
_UNIQUE = ("tests/unit/test_untangle.py", "tests/unit/test_fold.py")
_ID, _ROW_PLAN = "consumers.mapping.ids", "consumers.mapping.plan:RowPlan"
_ENV, _SNAPSHOT = "connectors.debezium.envelope", "connectors.positions:Snapshot"
_TIED = "consumers.apply.untangle"

PURE = (
    # 6: a lost slot
    Mutant(
        "heal: what comes late of the old slot is applied",
        6,
        f"{_RENEW}:replace_slot",
        "start()\n    move(ends(), begins)",
        "found = ends()\n    start()\n    move(found, begins)",
        tests=_RENEWED,
    ),
    Mutant(
        "heal: positions stay where they were before the slot was made",
        6,
        f"{_LEDGER}:move_to",
        "ends.get(position.partition, 0)",
        "0",
        tests=_RENEWED,
    ),
    Mutant(
        "heal: who lost the hold says that positions lie right",
        6,
        f"{_LEDGER}:move_to",
        "tx.update(POSITIONS, mine, change) != 1",
        "tx.update(POSITIONS, mine, change) > 1",
        tests=_RENEWED,
    ),
    Mutant(
        "heal: any slot counts as the new one",
        6,
        f"{_RENEW}:begins_anew",
        "healing != ledger.NEW_SLOT",
        "False",
        tests=_RENEWED,
    ),
    Mutant(
        "heal: who is late says that it is done",
        6,
        f"{_LEDGER}:healed",
        ', "healing": NEW_SLOT',
        "",
        tests=_RENEWED,
    ),
    # 2: what is applied is visible; order is the topic's
    Mutant(
        "order: a row's events by LSN",
        2,
        f"{_DECIDE}:fold",
        "in ops:",
        "in sorted(ops, key=lambda o: o.lsn):",
        tests=_FOLD,
    ),
    Mutant("order: the first event wins", 2, f"{_DECIDE}:fold", "merge(before, op)", "before", tests=_FOLD),
    Mutant(
        "visible: who is in progress is shown",
        2,
        f"{_SNAPSHOT}.shows",
        "full not in self.in_progress",
        "True",
        tests=_POSITIONS,
    ),
    Mutant(
        "visible: what is not begun is shown",
        2,
        f"{_SNAPSHOT}.shows",
        "full < self.xmax and",
        "",
        tests=_POSITIONS,
    ),
    Mutant(
        "visible: an id after the wrap",
        2,
        f"{_SNAPSHOT}.full_id",
        "if candidate - self.xmax > epoch // 2:",
        "if False:",
        tests=_POSITIONS,
    ),
    Mutant(
        "visible: an id before the wrap",
        2,
        f"{_SNAPSHOT}.full_id",
        "elif self.xmax - candidate > epoch // 2:",
        "elif False:",
        tests=_POSITIONS,
    ),
    # 3: never a blind replace
    Mutant("unsent: a stand-in is a value", 3, f"{_ENV}:_event", "if missing:", "if False:", tests=_ENVELOPE),
    Mutant(
        "unsent: a bytea's stand-in is a value",
        3,
        f"{_ENV}:_event",
        "in (text, binary)",
        "in (text,)",
        tests=_ENVELOPE,
    ),
    Mutant(
        "unsent: anybody's stand-in",
        3,
        f"{_ENV}:stand_ins",
        "return placeholder,",
        'return "__debezium_unavailable_value",',
        tests=_ENVELOPE,
    ),
    Mutant(
        "unsent: what a filter needs is not read",
        3,
        f"{_DECIDE}:decide",
        "missing & table.needed",
        "False",
        tests=_DECIDES,
    ),
    Mutant(
        "unsent: what no event carries is not read",
        3,
        f"{_DECIDE}:decide",
        "table.reread or",
        "False or",
        tests=_DECIDES,
    ),
    Mutant(
        "unsent: a part is told to be whole",
        3,
        f"{_DECIDE}:decide",
        "not missing, create",
        "True, create",
        tests=_DECIDES,
    ),
    Mutant(
        "an event of other columns is taken as it is",
        3,
        f"{_DECIDE}:decide",
        "event.row.keys() | event.unsent != table.sent",
        "False",
        tests=_DECIDES,
    ),
    Mutant(
        "an update is a create",
        3,
        f"{_DECIDE}:decide",
        "event.op is not Operation.UPDATE",
        "True",
        tests=_DECIDES,
    ),
    Mutant(
        "a create is an update",
        3,
        f"{_DECIDE}:decide",
        "event.op is not Operation.UPDATE",
        "False",
        tests=_DECIDES,
    ),
    Mutant(
        "a tombstone is no delete",
        3,
        f"{_DECIDE}:decide",
        "if event.op in (Operation.DELETE, Operation.TOMBSTONE) or event.row is None:",
        "if event.op is Operation.DELETE:",
        tests=_DECIDES,
    ),
    Mutant(
        "fold: wholeness is the last one's",
        3,
        f"{_DECIDE}:merge",
        "whole=before.whole or op.whole",
        "whole=op.whole",
        tests=_FOLD,
    ),
    Mutant(
        "fold: all is whole",
        3,
        f"{_DECIDE}:merge",
        "whole=before.whole or op.whole",
        "whole=True",
        tests=_FOLD,
    ),
    Mutant(
        "fold: a create is forgotten",
        3,
        f"{_DECIDE}:merge",
        "whole=before.whole or op.whole, create=before.create or op.create",
        "whole=before.whole or op.whole, create=op.create",
        tests=_FOLD,
    ),
    Mutant(
        "fold: a Read after Gone is an update",
        3,
        f"{_DECIDE}:merge",
        "create=op.create or isinstance(before, Gone) or before.create",
        "create=op.create",
        tests=_FOLD,
    ),
    Mutant(
        "fold: a part after a create is put on top of another life",
        3,
        f"{_DECIDE}:merge",
        "replace(op, create=True) if op.whole",
        "op if op.whole",
        tests=_FOLD,
    ),
    Mutant(
        "fold: a part after Gone is taken for whole",
        3,
        f"{_DECIDE}:merge",
        "else Read(op.key, True, op.at, op.lsn)",
        "else replace(op, create=True)",
        tests=_FOLD,
    ),
    Mutant(
        "fold: the reading's place is the first event's",
        3,
        f"{_DECIDE}:merge",
        "replace(before, at=op.at, lsn=op.lsn)",
        "before",
        tests=_FOLD,
    ),
    # 4: filters have transitions, and three values
    Mutant("filter: unknown lets in", 4, f"{_ROW_PLAN}.inside", "is True", "is not False", tests=_PLAN),
    Mutant(
        "filter: nothing is left out", 4, f"{_ROW_PLAN}.inside", "self.where is None", "True", tests=_PLAN
    ),
    Mutant(
        "filter: what is unknown is false",
        4,
        "consumers.mapping.evaluation:Compiler._strict",
        "f'None if {word",
        "f'False if {word",
        tests=_FILTERS,
    ),
    Mutant(
        "filter: an unknown part of AND and OR",
        4,
        "consumers.mapping.evaluation:Compiler._junction",
        'f"{a} is None"',
        '"False"',
        tests=_FILTERS,
    ),
    Mutant(
        "filter: a list with NULL in it",
        4,
        "consumers.mapping.evaluation:Compiler._in",
        " or None)",
        ")",
        tests=_FILTERS,
    ),
    # 5 and 6: what is loaded
    Mutant(
        "chunks: what comes behind the last key",
        5,
        "sync.snapshot.chunks:cut",
        "[None, *boundaries, None]",
        "[None, *boundaries]",
        tests=_CHUNKS,
    ),
    # 8: ids are computed
    Mutant("ids: every table has the same", 8, f"{_ID}:table_tag", "table.encode()", "b''", tests=_IDS),
    Mutant(
        "ids: other keys of two tables are the same",
        8,
        f"{_ID}:object_id",
        "[table, *(str(value)",
        "[*(str(value)",
        tests=_IDS,
    ),
    Mutant(
        "ids: only the first column counts",
        8,
        f"{_ID}:object_id",
        "for value in key)]",
        "for value in key[:1])]",
        tests=_IDS,
    ),
    Mutant(
        "ids: columns in another order",
        8,
        f"{_ID}:object_id",
        "for value in key)]",
        "for value in sorted(map(str, key)))]",
        tests=_IDS,
    ),
    Mutant(
        "ids: little-endian", 8, f"{_ID}:object_id", 'to_bytes(8, "big"', 'to_bytes(8, "little"', tests=_IDS
    ),
    Mutant(
        "ids: a key is read back from any table's",
        8,
        f"{_ID}:integer_key",
        "if raw[:4] == table_tag(table)",
        "if True",
        tests=_IDS,
    ),
    Mutant(
        "ids: read back without a sign", 8, f"{_ID}:integer_key", "signed=True", "signed=False", tests=_IDS
    ),
    Mutant(
        "ids: a text that looks like a number",
        8,
        f"{_ID}:row_key",
        "v if type(v) is int else str(v)",
        "str(v)",
        tests=_IDS,
    ),
    Mutant(
        "ids: a reference to its own table",
        8,
        f"{_ROW_PLAN}.document",
        "referred(table, parts, natives)",
        "referred(self.table.name, parts, natives)",
        tests=_PLAN,
    ),
    Mutant(
        "ids: a parent by its child's table",
        8,
        f"{_ROW_PLAN}.parent_of",
        "self.parent_table",
        "self.table.name",
        tests=_PLAN,
    ),
    # 9: embedding
    Mutant(
        "arrays: NULL comes first",
        9,
        f"{_ARRAYS}:sort_key",
        "(2, 0) if v is None",
        "(-1, 0) if v is None",
        tests=_FOLD,
    ),
    Mutant(
        "arrays: not in their order",
        9,
        f"{_ARRAYS}:arrays_from_staging",
        'sorted(of, key=lambda row: sort_key(row["o"]))',
        "of",
        tests=_FOLD,
    ),
    Mutant(
        "arrays: a child of half a parent's key",
        9,
        "consumers.mapping.plan:referred",
        "if native is None:",
        "if False:",
        tests=_PLAN,
    ),
    # 10: parked
    Mutant("parked: rows of two tables are one", 10, f"{_TIED}:parked_id", "{table} ", "", tests=_UNIQUE),
    # 11: unique values
    Mutant(
        "unique: what the batch itself wants twice",
        11,
        f"{_TIED}:tied",
        "if len(ids) > 1:",
        "if False:",
        tests=_UNIQUE,
    ),
    Mutant(
        "unique: who holds it is not looked for",
        11,
        f"{_TIED}:tied",
        "in _holders(tx, use, fields, wanted)",
        "in ()",
        tests=_UNIQUE,
    ),
    Mutant(
        "unique: who wants what another holds",
        11,
        f"{_TIED}:tied",
        "found.update({_id: keys[_id] for _id in wanted.get(_values(holder, fields), ())})",
        "pass",
        tests=_UNIQUE,
    ),
    Mutant(
        "unique: one field of several",
        11,
        f"{_TIED}:_holders",
        "if len(fields) == 1:",
        "if True:",
        tests=_UNIQUE,
    ),
    Mutant(
        "unique: nulls of a partial index",
        11,
        f"{_TIED}:tied",
        "index.partial is None or None not in values",
        "True",
        tests=_UNIQUE,
    ),
    Mutant(
        "unique: nulls of any index are free",
        11,
        f"{_TIED}:tied",
        "index.partial is None or None not in values",
        "None not in values",
        tests=_UNIQUE,
    ),
    Mutant(
        "unique: a foreign document is taken for a row's",
        11,
        f"{_TIED}:key_of_document",
        "if number is None:",
        "if False:",
        tests=_UNIQUE,
    ),
    Mutant(
        "unique: a key that its id does not give",
        11,
        f"{_TIED}:key_of_document",
        "if texts is not None:",
        "if False:",
        tests=_UNIQUE,
    ),
    Mutant(
        "unique: UUIDs as they are read",
        11,
        f"{_TIED}:_hashable",
        "return Binary.from_uuid(value)",
        "return value",
        tests=_UNIQUE,
    ),
    Mutant("unique: indexes that are not", 11, f"{_TIED}:unique_indexes", "i.unique and", "", tests=_UNIQUE),
)

for _mutant in (*MUTANTS, *PURE):  # before anybody edits the files under a long run
    _source(_mutant.place)
