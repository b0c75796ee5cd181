"""Whether both sides have the same. Pure; the SQL only leaves out what cannot differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from connectors.trees.manifest import Pair
from sync.files.layout import mode_of
from sync.files.plan import SAMPLES, shown

#: over `o` and `n`: rows that may differ. The modes are those of `layout.mode_of`.
SUSPECT = """
    o.kind <> n.kind OR o.size <> n.size OR o.mtime_ns <> n.mtime_ns OR o.digest <> n.digest OR o.digest = X''
    OR o.target <> n.target OR o.uid <> n.uid OR o.gid <> n.gid
    OR (o.kind = 'file' AND (o.links > 1 OR n.links > 1))
    OR n.mode <> CASE
        WHEN o.kind NOT IN ('file', 'folder') THEN o.mode
        WHEN substr(CAST(o.folder AS TEXT) || '/', 1, 8) = 'private/'
            THEN CASE WHEN o.kind = 'folder' OR o.mode & 73 THEN 448 ELSE 384 END
        WHEN substr(CAST(o.folder AS TEXT) || '/', 1, 7) = 'shared/'
            THEN CASE WHEN o.kind = 'folder' THEN 504 | (o.mode & 1024) WHEN o.mode & 73 THEN 504 ELSE 432 END
        ELSE o.mode END
"""
#: what makes a file one that rsync has to send again although size and time agree
CONTENT = frozenset({"content", "unread"})


@dataclass(frozen=True, slots=True)
class Difference:
    """path: in the old layout. reasons: missing, extra, kind, content, size, link, mode, time, owner, hard link,
    unread."""

    path: bytes
    reasons: tuple[str, ...]


@dataclass(slots=True)
class Comparison:
    """What differs: a count for each reason, and some by name."""

    counts: Counter[str] = field(default_factory=Counter)
    samples: list[Difference] = field(default_factory=list)
    #: files of the same size and time with other content
    content: list[bytes] = field(default_factory=list)
    differing: int = 0

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "differing": self.differing,
            "by_reason": dict(sorted(self.counts.items())),
            "samples": [{"path": shown(one.path), "reasons": list(one.reasons)} for one in self.samples],
        }


def compare(pairs: Iterable[Pair], *, owners: bool, nanoseconds: bool = True) -> Comparison:
    """Judge pairs. owners: they were to be kept. nanoseconds: the new root keeps times that exact."""
    found = Comparison()
    for pair in pairs:
        reasons = tuple(differences(pair, owners=owners, nanoseconds=nanoseconds))
        if not reasons:
            continue
        found.differing += 1
        found.counts.update(reasons)
        if len(found.samples) < SAMPLES:
            found.samples.append(Difference(pair.path, reasons))
        if CONTENT & set(reasons):
            found.content.append(pair.path)
    return found


def differences(pair: Pair, *, owners: bool, nanoseconds: bool = True) -> Iterable[str]:
    """In what the new side is not what the old one has to become."""
    old, new = pair.old, pair.new
    if old is None or new is None:
        if old is None:
            yield "extra"
        elif old.kind != "other":
            yield "missing"
        return
    if old.kind != new.kind:
        yield "kind"
        return
    if old.kind == "file":
        if old.size != new.size:
            yield "size"
        elif not old.digest or not new.digest:
            yield "unread"
        elif old.digest != new.digest:
            yield "content"
        if pair.old_twin != pair.new_twin:
            yield "hard link"
    if old.target != new.target:
        yield "link"
    area = pair.path.partition(b"/")[0].decode("ascii", "replace")
    if new.kind != "link" and new.mode != mode_of(area, old.kind, old.mode):
        yield "mode"
    step = 1 if nanoseconds else 1_000_000_000
    if abs(old.mtime_ns - new.mtime_ns) >= step:
        yield "time"
    if owners and (old.uid, old.gid) != (new.uid, new.gid):
        yield "owner"
