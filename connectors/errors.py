"""The error tree. Every error says what happened, the facts, and the remedy; its kind says who acts next.

SyncError
  Unavailable   RETRY    the same input again, later      ServerGone, Contended, TooMuchAtOnce, Moved
  Unappliable   PARK     this event, and its key behind   DecodeFailed, MappingFailed, WriteRefused, UniqueTaken
  Refused       REFUSED  the operator decides; exit 1     SourceNotReady, TopicMissing, NotSetUp, NotComplete
  Misused       USAGE    configuration; exit 2            SettingsInvalid, MappingInvalid
  Broken        FATAL    stop before doing harm; exit 1   SlotLost, SourceReplaced, SchemaChanged
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar


class Kind(StrEnum):
    """Who acts on an error next. Callers branch on this, never on a message."""

    RETRY = "retry"
    PARK = "park"
    REFUSED = "refused"
    USAGE = "usage"
    FATAL = "fatal"


class SyncError(Exception):
    """Root of every error raised here.

    what: one sentence, no secret in it. remedy: what the operator does next. facts: names and numbers, shown
    as they are and put into `--json` output.
    """

    kind: ClassVar[Kind] = Kind.FATAL

    def __init__(self, what: str, *, remedy: str, **facts: object) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.facts = facts

    @property
    def code(self) -> str:
        """The name by which scripts know this error."""
        return type(self).__name__

    @property
    def retry_helps(self) -> bool:
        """True when the same command may go through later with nothing changed."""
        return self.kind is Kind.RETRY

    @property
    def exit_code(self) -> int:
        """1: refused or not in order. 2: usage or configuration."""
        return 2 if self.kind is Kind.USAGE else 1

    def as_dict(self) -> dict[str, object]:
        """The error for `--json`."""
        return {
            "error": self.code,
            "what": self.what,
            "facts": {name: str(value) for name, value in self.facts.items()},
            "remedy": self.remedy,
            "retry_helps": self.retry_helps,
        }


class Unavailable(SyncError):
    """A server is away or busy. The same input again, later."""

    kind = Kind.RETRY


class ServerGone(Unavailable):
    """A server cannot be reached, or went away in the middle."""


class AgentFailed(Unavailable):
    """The agent met an error of its own with this session: it may go through later."""


class Contended(Unavailable):
    """A MongoDB transaction lost against another one, or was ended by the server: it is run again whole."""


class TooMuchAtOnce(Unavailable):
    """A MongoDB transaction is too large, or takes too long, for the server: fewer rows in one go through."""


class Moved(Unavailable):
    """A position is not where this batch starts, or its table is held: go on from what MongoDB says."""


class RootStale(Unavailable):
    """A folder does not answer, or went away: its mount or the server behind it."""


class FilesBusy(Unavailable):
    """Another process is at work on the same roots."""


class FilesMoving(Unavailable):
    """Files change all the time while they are copied or compared."""


class CopyCutOff(Unavailable):
    """rsync was ended in the middle. The same command goes on."""


class FlagMoved(Unavailable):
    """Somebody else wrote the flag in between: it is read anew."""


class Unappliable(SyncError):
    """This event cannot be applied. It is parked, and its key's later events behind it.

    parked_class: what people sort parked rows by. details: what the server said of it, with values of the row
    in it: kept with what is parked, and shown to whoever asks for that one row; in no log and no list.
    """

    kind = Kind.PARK
    parked_class: ClassVar[str] = "data"

    def __init__(
        self, what: str, *, remedy: str, details: Mapping[str, Any] | None = None, **facts: object
    ) -> None:
        super().__init__(what, remedy=remedy, **facts)
        self.details = details


class DecodeFailed(Unappliable):
    """The record is not a change event that can be read."""

    parked_class = "decode"


class RowUnknown(Unappliable):
    """A row would have to be read as it was then, and PostgreSQL has it only as it is now."""


class MappingFailed(Unappliable):
    """A value of the row has no faithful form under the mapping."""


class ExpressionFailed(MappingFailed):
    """A condition or a computed field of the mapping cannot be evaluated for the row."""

    parked_class = "mapping"


class WriteRefused(Unappliable):
    """MongoDB does not take the document: a field or a value of it, or what an index makes of it."""


class TooLarge(WriteRefused):
    """The document is larger than MongoDB takes."""


class ValidatorRefused(WriteRefused):
    """The collection's validator refuses the document."""

    parked_class = "validator"


class RowRefused(Unappliable):
    """PostgreSQL does not take what a document says of a row: a constraint, or a value that does not fit."""


class UniqueTaken(Unappliable):
    """Another document holds a value that has to be unique."""

    parked_class = "unique"


#: every class of parked rows; `behind` is of events, which wait for an earlier one of their row
PARKED_CLASSES = ("data", "mapping", "validator", "unique", "decode")


class Refused(SyncError):
    """Something is not in order. The operator decides."""

    kind = Kind.REFUSED


class Stopped(Refused):
    """It was told to stop before it had ended. Nothing is left half done."""


class SourceNotReady(Refused):
    """PostgreSQL is not set up for logical replication, or the role may not do it."""


class TargetNotReady(Refused):
    """MongoDB is no replica set, or the user may not do what is needed."""


class TableUnfit(Refused):
    """A mapped table cannot be replicated as it is."""


class ConnectRefused(Refused):
    """Kafka Connect does not take the connector."""


class TopicMissing(Refused):
    """A topic that the pipeline needs is not there."""


class TopicUnfit(Refused):
    """A topic that is there would lose events."""


class SlotTaken(Refused):
    """A replication slot of this name is somebody else's."""


class NotSetUp(Refused):
    """`tandem setup` has not been run for this pipeline."""


class MappingChanged(Refused):
    """The mapping is not the one that the pipeline was set up with."""


class NothingToMap(Refused):
    """The schemas have no table that a mapping could have."""


class FileRefused(Refused):
    """A file that is to be written is there already, or cannot be written."""


class AddressRefused(Refused):
    """An address that is to be listened on is taken, or is not this machine's."""


class AgentRefused(Refused):
    """The agent that sessions are to be moved to takes no session at all: another version, or no login."""


class SessionRefused(Refused):
    """The agent does not take this session; the same request would be refused again."""


class WebhookRefused(Refused):
    """A webhook does not take a notice; the same notice would be refused again."""


class NoticeTooLong(Refused):
    """A channel does not take a notice of this length."""


class SessionsUnfit(Refused):
    """The target has no collection of sessions that could be moved, or nobody can be told."""


class SessionsActive(Refused):
    """Sessions have not ended in the time that they had."""


class DumpFailed(Refused):
    """A dump of a database cannot be made, or not be read back."""


class BackupRefused(Refused):
    """A backup cannot be made there, or is not there."""


class BackupDamaged(Refused):
    """A backup is not as it was when it was made."""


class BackupForeign(Refused):
    """A backup is of another server or another database."""


class RestoreRefused(Refused):
    """Something stands in the way of a restore."""


class ArchiveRefused(Refused):
    """The archive cannot be where it is to be, or not be used for this."""


class ArchiveDamaged(Refused):
    """Something of the archive is not as it was when it was written."""


class ArchiveForeign(Refused):
    """The archive is of another pipeline, or of topics that were made anew since."""


class ArchiveTaken(Refused):
    """Another process writes to the same archive."""


class NotParked(Refused):
    """Nothing is parked under this key."""


class NotComplete(Refused):
    """The target does not hold everything up to the LSN that was asked for."""


class Disagreement(Refused):
    """Verification found documents that differ from their rows."""


class FenceLapsed(Refused):
    """The fence did not stand all the time: writes of applications may have passed."""


class GateClosed(Refused):
    """The cutover does not go on: something is not in order."""


class OverBudget(Refused):
    """Writes would be refused, or have been, for longer than is allowed."""


class CutoverState(Refused):
    """The cutover is not in a state in which that can be done."""


class ReverseState(Refused):
    """The way back is not in a state in which that can be done."""


class ReverseBusy(Refused):
    """Another reverse writer is at work."""


class HistoryLost(Refused):
    """What MongoDB keeps of its changes no longer reaches back to where the way back stands."""


class CollectionGone(Refused):
    """A mapped collection was dropped or renamed: what that means for its rows is for people to say."""


class TakenOver(CutoverState):
    """Another controller is at work on this cutover."""


class StackFailed(Refused):
    """A component of the embedded stack cannot be installed or started."""


class ProgramMissing(Refused):
    """A program that is needed is not on this machine."""


class ProgramUnfit(Refused):
    """A program is there, and will not do."""


class RootUnfit(Refused):
    """A root is not there, is no folder, or lies inside of the other one."""


class RootDenied(Refused):
    """Something under a root may not be read or written."""


class RootFull(Refused):
    """There is no room left under a root."""


class LayoutUnfit(Refused):
    """What is under the old root does not fit the new layout, or something stands in its way."""


class CopyFailed(Refused):
    """Files could not be copied."""


class FilesDiffer(Refused):
    """The new root does not hold what the old one does."""


class FlagUnknown(Refused):
    """There is no such flag."""


class FlagRefused(Refused):
    """The flag, or where flags are kept, is not as it has to be to be written."""


class Misused(SyncError):
    """Usage or configuration."""

    kind = Kind.USAGE


class SettingsInvalid(Misused):
    """Settings are missing or wrong."""


class SchemaUnknown(Misused):
    """There is no such schema in the source database."""


class KeyUnknown(Misused):
    """This is no key of the table, and no `_id` of the collection."""


class MappingInvalid(Misused):
    """The mapping file is wrong: it says where."""


class Broken(SyncError):
    """Going on would do harm."""


class SlotLost(Broken):
    """The replication slot is gone: changes since then are in no event."""


class EventsExpired(Broken):
    """The topic no longer holds every event that comes next: going on would skip some."""


class ArchiveGap(Broken):
    """Kafka has removed events that the archive has not kept."""


class SourceReplaced(Broken):
    """The database behind the DSN is not the one that this pipeline was set up for."""


class SchemaChanged(Broken):
    """A source table is no longer as it was when the mapping was compiled."""
