"""What the command and the cutover call: list, set, turn. Each write is based on what was read, and read back."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connectors.errors import FlagMoved, FlagRefused, FlagUnknown, ServerGone
from connectors.flags import FlagStore, Kept
from sync.flags.rules import Rollout, Wanted, changed, check, difference, near, rollout, variant_of

#: times that a flag which somebody else writes too is read anew
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Listed:
    """A flag. rollout None: its targeting is somebody else's. wrong: why flagd would not take it."""

    name: str
    definition: Mapping[str, Any]
    rollout: Rollout | None
    wrong: str = ""

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        found: dict[str, object] = {"name": self.name, "definition": self.definition}
        if self.wrong:
            return {**found, "wrong": self.wrong}
        of = self.rollout
        if of is None:
            return {**found, "rollout": None}
        return {
            **found,
            "rollout": {
                "enabled": of.enabled,
                "default": of.default,
                "percent": of.percent,
                "share": of.share,
                "cohorts": [{"name": c.name, "keys": len(c.keys), "variant": c.variant} for c in of.cohorts],
            },
        }


@dataclass(frozen=True, slots=True)
class Change:
    """One flag, before and after. before None: it was not there. written: and read back; False in a rehearsal, or where
    nothing changed."""

    name: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any]
    written: bool

    @property
    def same(self) -> bool:
        """It is so already."""
        return self.before == self.after

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "name": self.name,
            "changed": not self.same,
            "written": self.written,
            "before": self.before,
            "after": self.after,
        }

    def lines(self) -> list[str]:
        """The difference, for people."""
        return difference(self.name, self.before, self.after)


class Flags:
    """The flags of a store. key: what an application gives of whom it asks for."""

    def __init__(self, store: FlagStore, key: str = "targetingKey") -> None:
        self.store, self._key = store, key

    def all(self) -> list[Listed]:
        """All flags."""
        return [self._listed(kept) for kept in self.store.all()]

    def read(self, name: str) -> Listed:
        """One of them. Raises FlagUnknown."""
        kept = self.store.read(name)
        if kept is None:
            raise self._unknown(name)
        return self._listed(kept)

    def set(self, name: str, wanted: Wanted, *, rehearse: bool = False) -> Change:
        """Make it so, and read it back. Safe to repeat. rehearse: only say what would change.

        Raises FlagUnknown, FlagRefused, Misused; FlagMoved where somebody else writes it all the time.
        """
        for _ in range(_TRIES):
            kept = self.store.read(name)
            if kept is None and not wanted.create:
                raise self._unknown(name)
            before = None if kept is None else copy.deepcopy(dict(kept.definition))
            after = changed(name, before, wanted)
            if rehearse or before == after:
                return Change(name, before, after, False)
            try:
                self.store.write(name, after, None if kept is None else kept.version)
            except FlagMoved:
                continue
            except ServerGone:  # whether it was written is for the store to say
                if not self._is(name, after):
                    raise
            if not self._is(name, after):
                raise FlagRefused(
                    f"the flag {name} was written and is not so when it is read back",
                    remedy="somebody else writes it too, or the store keeps something else: see `tandem flags list`",
                )
            return Change(name, before, after, True)
        raise FlagMoved(
            f"somebody else writes the flag {name} all the time",
            remedy="find out who, then try again",
            tries=_TRIES,
        )

    def turn(
        self, names: Sequence[str], variant: str, *, rehearse: bool = False, over_foreign: bool = False
    ) -> list[Change]:
        """Give everybody this variant of each flag, whoever had which; all are looked at before the first is written.

        Raises as `set` does; then some may be turned: see `says`.
        """
        wanted = Wanted(variant, over_foreign=over_foreign, key=self._key)
        planned = [self.set(name, wanted, rehearse=True) for name in names]
        return planned if rehearse else [self.set(name, wanted) for name in names]

    def says(self, names: Sequence[str], variant: str) -> bool | None:
        """Whether everybody gets this variant of all these flags. False: nobody does, of any. None: some do, or it
        cannot be told. Raises what the store raises."""
        answers = {self._says(name, variant) for name in names}
        return answers.pop() if len(answers) == 1 else None

    def _says(self, name: str, variant: str) -> bool | None:
        of = self.read(name)
        if of.wrong or of.rollout is None or not of.rollout.enabled or of.rollout.default is None:
            return None
        meant = variant_of(name, of.definition, variant)
        given = {of.rollout.default, *(c.variant for c in of.rollout.cohorts if c.keys)}
        if of.rollout.percent and of.rollout.share is not None:
            given.add(of.rollout.share)
        if meant not in given:
            return False
        return True if len(given) == 1 else None

    def _is(self, name: str, definition: Mapping[str, Any]) -> bool:
        kept = self.store.read(name)
        return kept is not None and dict(kept.definition) == dict(definition)

    def _listed(self, kept: Kept) -> Listed:
        try:
            check(kept.name, kept.definition)
        except FlagRefused as error:
            return Listed(kept.name, kept.definition, None, error.what)
        return Listed(kept.name, kept.definition, rollout(kept.definition, self._key))

    def _unknown(self, name: str) -> FlagUnknown:
        names = [kept.name for kept in self.store.all()]
        return FlagUnknown(
            f"there is no flag {name} in {self.store.where}{near(name, names)}",
            remedy="see `tandem flags list`; `tandem flags set --create` makes a boolean one",
        )
