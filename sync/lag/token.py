"""Complete as of an LSN (docs/write-rule.md, "When is it complete?").

(a) Debezium streams from the slot, and the slot's confirmed position has reached the LSN: Kafka has acknowledged
everything up to it. (b) Then the end
offsets of all topic partitions are read. (c) Then, in one read of MongoDB: all positions have reached them, nothing is
held, no job is left, nothing is parked.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from connectors.errors import NotComplete, NotSetUp, Refused, SettingsInvalid, SlotLost, SourceReplaced
from connectors.kafka.admin import Admin
from connectors.mongo import clock, ledger
from connectors.mongo.client import Database
from connectors.mongo.ledger import Position
from connectors.mongo.transaction import Transaction, Transactions
from connectors.positions import Lsn, Partition
from connectors.postgres import catalog, slots
from connectors.postgres.client import Session, connect, translated
from connectors.settings import SourceEndpoint

#: while WAL has still to come
_CHECK_EVERY_S = 2.0
#: a row that failed again and again is tried at least that often (consumers.dead_letters), and a bit
_HEALED_WITHIN_S = 35.0
_LSN = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")
_TOKENS = "give `now`, an LSN such as 16/B374D848, or what `tandem wait-for now --json` printed, or a file with that"


@dataclass(frozen=True, slots=True)
class Ledger:
    """MongoDB's side in one snapshot."""

    positions: Mapping[Partition, Position]
    jobs: int
    parked: int
    rereads: tuple[str, ...] = ()
    #: of the parked rows those that the consumers are about to try again
    healing: int = 0


@dataclass(frozen=True, slots=True)
class Token:
    """The target holds everything that was committed up to lsn. positions: partition -> offset reached."""

    lsn: Lsn
    at: str
    positions: Mapping[str, int]

    def as_dict(self) -> dict[str, object]:
        """For `--json`, and to hand on."""
        return {"lsn": str(self.lsn), "at": self.at, "positions": dict(self.positions)}


@dataclass(slots=True)
class Standing:
    """What is missing. Empty `missing` means complete."""

    missing: list[str] = field(default_factory=list)
    parked: int = 0
    healing: int = 0
    held: list[str] = field(default_factory=list)
    rereads: tuple[str, ...] = ()
    behind: int = 0
    token: Token | None = None

    @property
    def only_parked(self) -> bool:
        """Nothing is missing but what is parked."""
        return len(self.missing) == 1 and self.parked > 0


def read_ledger(transactions: Transactions) -> Ledger:
    """Positions, jobs and parked events in one snapshot."""

    def work(tx: Transaction) -> Ledger:
        found = {p.partition: p for p in map(Position.of, tx.find(ledger.POSITIONS, {}))}
        again = tuple(job.table for job in ledger.rereads_in(tx))
        jobs = tx.count(ledger.JOBS) - len(again)
        return Ledger(found, jobs, tx.count(ledger.PARKED), again, tx.count(ledger.PARKED, {"due": True}))

    return transactions.repeat(work)


def judge(lsn: Lsn, ends: Mapping[Partition, int], found: Ledger) -> Standing:
    """Whether the ledger is complete: read after these ends, which were read after the slot confirmed lsn. Pure."""
    standing = Standing(parked=found.parked, healing=found.healing)
    for partition, end in ends.items():
        position = found.positions.get(partition)
        standing.behind += max(0, end - (position.at if position else 0))
    lost = [p.id for p in ends if p not in found.positions]
    if lost and not standing.behind:
        standing.missing.append(f"there is no position of {', '.join(lost)}")
    if standing.behind:
        standing.missing.append(f"{standing.behind} records are not yet applied")
    standing.held = sorted({p.table for p in found.positions.values() if p.holder is not None})
    if standing.held:
        standing.missing.append(f"not loaded yet, or held: {', '.join(standing.held)}")
    standing.rereads = found.rereads
    if found.rereads:
        standing.missing.append(f"not read again yet: {', '.join(found.rereads)}")
    if found.jobs:
        standing.missing.append(
            f"{found.jobs} jobs are still being carried out (truncates, copies of a parent)"
        )
    if found.parked:
        standing.missing.append(f"{found.parked} rows are parked")
    if not standing.missing:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        standing.token = Token(
            lsn, at, {p.id: position.at for p, position in sorted(found.positions.items())}
        )
    return standing


def demand_topics(admin: Admin, positions: Mapping[Partition, Position]) -> None:
    """Every topic is the one that it was at setup. Raises TopicMissing, SourceReplaced."""
    there = admin.demand({p.topic for p in positions})
    if anew := sorted({p.topic for p, at in positions.items() if there[p.topic].id != at.topic_id}):
        raise SourceReplaced(
            f"topics were made anew, and what they held is gone: {', '.join(anew)}",
            remedy="run `tandem teardown`, then `tandem setup` and `tandem snapshot`",
        )


class Completeness:
    """Asks the three servers in the order that makes the answer rigorous. Holds a session of each."""

    def __init__(self, source: SourceEndpoint, db: Database, admin: Admin) -> None:
        self.source, self.db, self.admin, self.slot = source, db, admin, source.slot
        self._open: Session | None = None
        self.transactions = Transactions(db)
        self._asked: Lsn | None = None
        self._checked = 0.0

    def close(self) -> None:
        """Close what this made itself."""
        self.transactions.close()
        if self._open is not None:
            self._open.close()

    @property
    def session(self) -> Session:
        """A session of PostgreSQL; a new one where the last was lost. Raises ServerGone."""
        if self._open is None or self._open.closed or self._open.broken:
            self._open = connect(self.source, name="tandem wait-for")
        return self._open

    def now(self) -> Lsn:
        """The LSN below which everything is that is committed by now."""
        with translated():
            return slots.wal_position(self.session)

    def check(self) -> None:
        """Raise what makes it pointless to go on: NotSetUp, SlotLost, TopicMissing, SourceReplaced."""
        self._check_topics(self._positions())
        with translated(self.source):
            self._slot_facts()

    def demand_own(self, lsn: Lsn, positions: Mapping[str, int]) -> None:
        """A token is of this pipeline, and of this PostgreSQL. Raises Refused."""
        ends = {p.id: end for p, end in self.admin.ends(list(self._positions())).items()}
        if foreign := sorted(name for name in positions if name not in ends):
            raise Refused(
                f"the token is of another pipeline: this one has no partition {', '.join(foreign[:3])}",
                remedy="give a token that `tandem wait-for` has printed for this slot and this mapping",
            )
        if beyond := sorted(name for name, at in positions.items() if at > ends[name]):
            raise Refused(
                f"the token speaks of more records than there are in {', '.join(beyond[:3])}: topics were made anew",
                remedy="ask for a new one: `tandem wait-for now`",
            )
        if lsn > (here := self.now()):
            raise Refused(
                f"PostgreSQL has not written {lsn} yet: it is at {here}",
                remedy="give an LSN, or a token, of this PostgreSQL; or `now`",
            )

    def look(self, lsn: Lsn, ends: dict[Partition, int] | None = None) -> Standing:
        """Whether the target is complete as of lsn, at this moment. Raises as `check`, and Unavailable.

        ends: of partitions, as an earlier look for the same lsn has found them when Kafka held everything up to it;
        filled by the first one. What was sent since is not waited for: under a load that never ends, something always
        has just come.
        """
        positions = self._positions()
        with translated(self.source):
            slot = self._slot_facts()
            if slot.confirmed < lsn:
                if self._asked != lsn:  # something to send, so that the slot moves past what is asked for
                    slots.emit_marker(self.session)
                    self._asked = lsn
                if time.monotonic() - self._checked > _CHECK_EVERY_S:
                    self._check_topics(positions)
                state = "" if slot.active else "; nobody streams from the slot"
                return Standing([f"{lsn - slot.confirmed} bytes of WAL are not yet in Kafka{state}"])
            if not slot.active:
                # one that was dropped and made anew by hand says that it has confirmed what it never sent;
                # Debezium, whose offset lies before it, does not stream from it
                return Standing(["nobody streams from the slot: what it says to have sent cannot be trusted"])
        with translated(self.source):
            changed = self._changed_tables(positions)
        positions = self._positions()
        self._check_topics(positions)
        if changed:
            return Standing([f"changed, and not yet taken over: {', '.join(changed)}"])
        ends = {} if ends is None else ends
        if unknown := [partition for partition in positions if partition not in ends]:
            ends.update(self.admin.ends(unknown))
        return judge(lsn, ends, read_ledger(self.transactions))

    def _changed_tables(self, positions: Mapping[Partition, Position]) -> list[str]:
        """Tables that are no longer as they were taken over: some rows may have changed without an event."""
        kept = ledger.versions(self.db)
        now = catalog.versions(self.session, sorted({p.table for p in positions.values()} & set(kept)))
        return [table for table, version in now.items() if kept[table] != version]

    def _positions(self) -> Mapping[Partition, Position]:
        positions = ledger.positions(self.db)
        if not positions:
            raise NotSetUp("the pipeline is not set up", remedy="run `tandem setup` first")
        return positions

    def _slot_facts(self) -> slots.SlotFacts:
        slot = slots.slot_facts(self.session, self.slot)
        if slot is None or slot.wal_status == "lost":
            how = "gone" if slot is None else "lost, PostgreSQL has removed WAL that it needed"
            raise SlotLost(
                f"the slot {self.slot} is {how}: {clock.missing_since(self.db)}",
                remedy="run `tandem heal`: it makes a new slot and reads every row again; then start the consumers",
            )
        self._is_ours(slot)
        return slot

    def _check_topics(self, positions: Mapping[Partition, Position]) -> None:
        demand_topics(self.admin, positions)
        self._checked = time.monotonic()

    def _is_ours(self, slot: slots.SlotFacts) -> None:
        known = ledger.state(self.db, "pipeline") or {}
        if slot.database != known.get("database", slot.database):
            raise SourceReplaced(
                f"the slot {self.slot} is of the database {slot.database}, not of {known['database']}",
                remedy="correct POSTGRES_DSN or TANDEM_SOURCE__SLOT",
            )

    def wait(
        self, lsn: Lsn, timeout_s: float | None, tell: Callable[[Standing], None] = lambda _: None
    ) -> Token:
        """Return when complete as of lsn. Raises NotComplete after timeout_s, or when only parked rows are missing."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        pause, patience = 0.02, Patience()
        ends: dict[Partition, int] = {}
        while True:
            standing = self.look(lsn, ends)
            if standing.token is not None:
                return standing.token
            tell(standing)
            if patience.at_an_end(standing) or (until is not None and time.monotonic() >= until):
                raise NotComplete(
                    f"the target is not complete as of {lsn}: {'; '.join(standing.missing)}",
                    remedy=_remedy(standing),
                    lsn=str(lsn),
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)


class Patience:
    """When it is no use to wait: only parked rows are missing, and no consumer is about to try them again."""

    def __init__(self) -> None:
        self._since: float | None = None

    def at_an_end(self, standing: Standing) -> bool:
        """Look at one standing after the other."""
        if not standing.only_parked:
            self._since = None
            return False
        if not standing.healing:
            return True
        self._since = self._since or time.monotonic()
        return time.monotonic() - self._since > _HEALED_WITHIN_S


def _remedy(standing: Standing) -> str:
    if standing.only_parked:
        return "see `tandem dead-letters list`; mend the rows, or the mapping, then `tandem dead-letters retry --all`"
    if standing.held or standing.rereads:
        return "run `tandem snapshot`, or wait for it; `tandem status` says what it waits for"
    return "wait longer (--timeout), and see `tandem status`: do consumers and connector run?"


def parse_token(text: str, now: Callable[[], Lsn]) -> tuple[Lsn, Mapping[str, int]]:
    """What the target has to hold: `now`, an LSN, a token as `tandem wait-for --json` prints it, or the name of a file
    with one; and the token's positions. Raises SettingsInvalid."""
    written = text.strip()
    if not written.startswith("{"):
        path = Path(written)
        if "/" in written and _LSN.fullmatch(written) is None and not path.is_file():
            raise SettingsInvalid(f"there is no file {written}, and it is no LSN", remedy=_TOKENS)
        if not path.is_file():
            return parse_target(written, now), {}
        written = path.read_text(encoding="utf-8", errors="replace")
    try:
        found = json.loads(written)
        return Lsn.parse(found["lsn"]), {str(name): int(at) for name, at in found["positions"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SettingsInvalid("this is no token of `tandem wait-for`", remedy=_TOKENS) from None


def parse_target(text: str, now: Callable[[], Lsn]) -> Lsn:
    """`now`, or an LSN. Raises SettingsInvalid."""
    if text == "now":
        return now()
    try:
        return Lsn.parse(text)
    except ValueError:
        raise SettingsInvalid(
            f"'{text}' is no LSN", remedy="give `now`, or an LSN such as 16/B374D848"
        ) from None
