"""A transaction in which rows are read anew and written, tried the way that each trouble asks for (docs/write-rule.md,
clauses 10 and 11)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from connectors.errors import Contended, Moved, TooMuchAtOnce, Unappliable, Unavailable, UniqueTaken
from connectors.mongo.transaction import Transaction, Transactions

#: a duplicate that a row meets alone is looked at so often again: a race may be told as one
_LOOKS_AT_DUPLICATES = 3


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended. busy: nothing was written, as somebody holds a table, or others were always in the way. trouble: it
    cannot be written. fewer: it is for fewer rows in one transaction. None of them: it is done."""

    busy: Unavailable | None = None
    trouble: Unappliable | None = None
    fewer: bool = False


class _Rehearsed(Exception):
    """Ends a transaction of which nothing is to be kept."""


def attempt(
    transactions: Transactions,
    work: Callable[[Transaction, bool], None],
    *,
    alone: bool,
    keep: bool = True,
    within_s: float,
) -> Ended:
    """Do the work, which is told whether to be careful: rows that are in each other's way by unique values are then
    written together. alone: it is of one row, so it cannot be done for fewer. keep: else it is only found out how it
    would end. Raises Unavailable where a server is away."""
    careful, looks = False, 0
    while True:

        def once(tx: Transaction, careful: bool = careful) -> None:
            work(tx, careful)
            if not keep:
                raise _Rehearsed

        try:
            transactions.repeat(once, within_s=within_s)
        except _Rehearsed:
            pass
        except (Moved, Contended) as busy:
            return Ended(busy=busy)
        except TooMuchAtOnce as too_much:
            return Ended(busy=too_much) if alone else Ended(fewer=True)
        except UniqueTaken as trouble:
            if not careful:
                careful = True
            elif not alone:
                return Ended(fewer=True)
            elif looks < _LOOKS_AT_DUPLICATES:
                looks += 1
                time.sleep(0.02 * 2**looks)
            else:
                return Ended(trouble=trouble)
            continue
        except Unappliable as trouble:
            return Ended(trouble=trouble) if alone else Ended(fewer=True)
        return Ended()
