"""For how long writes will be refused, by what was measured. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from sync.passage import Predicted


@dataclass(frozen=True, slots=True)
class Numbers:
    """What is measured beforehand. None: could not be.

    lock_s: how long the longest writing transaction has been under way. behind: records that are not applied yet.
    rate: records that the consumers apply in a second when they have enough. lag_s: how old what they apply is.
    files_s: of the last pass, by a rehearsal of it. sessions: to move; session_s: each; session_workers: at once.
    verify_s: of the comparison inside the fence. flags_s: to turn and read back the flags.
    """

    lock_s: float | None
    behind: int | None
    rate: float | None
    lag_s: float | None
    files_s: float | None = 0.0
    sessions: int = 0
    session_s: float = 0.0
    session_workers: int = 1
    verify_s: float | None = 0.0
    flags_s: float = 0.1


#: what any drain takes: a marker through Debezium, Kafka and the consumers
_LEAST_DRAIN_S = 0.5


def predict(numbers: Numbers) -> Predicted:
    """The seconds from the moment that writes are refused until the flags are turned."""
    unknown: list[str] = []

    def known(name: str, value: float | None) -> float:
        if value is None:
            unknown.append(name)
            return 0.0
        return value

    drain = known("drain", numbers.lag_s)
    if numbers.behind:
        drain = max(drain, numbers.behind / numbers.rate) if numbers.rate else drain + known("drain", None)
    parts = {
        "fence": known("fence", numbers.lock_s),
        "drain": max(drain, _LEAST_DRAIN_S),
        "files": known("files", numbers.files_s),
        "sessions": numbers.sessions * numbers.session_s / max(numbers.session_workers, 1),
        "verify": known("verify", numbers.verify_s),
        "flags": numbers.flags_s,
    }
    return Predicted(parts, tuple(dict.fromkeys(unknown)))
