"""What the journal tells the nanny: JournalClient gives these, the supervisor acts on them. Pure data.

Knows neither files nor processes. Tickets count the records of one life of the nanny, from 1.
"""

from dataclasses import dataclass

from nanny.journal.records_file import Record


@dataclass(frozen=True, slots=True)
class Opened:
    """The journal was read for the first time in this life."""

    records: tuple[Record, ...]
    last_n: int
    epoch: str
    """The one in the file; the caller's own for a new journal, and for a damaged one."""
    created: bool
    torn_bytes: int
    damaged: str | None
    """What was wrong and where, if more than the tail was; the old file is kept as `<path>.damaged-<n>`."""


@dataclass(frozen=True, slots=True)
class Reopened:
    """A later writer has read the journal; what was not acknowledged is on its way again."""

    last_n: int


@dataclass(frozen=True, slots=True)
class Durable:
    """All records up to this ticket are on disk."""

    up_to: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class CompactionDone:
    """The journal is the snapshot now, and what was appended since."""

    file_bytes: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The writer met an error; said once until it changes or the writer succeeds.

    `operation`: open and append are tried again; compact is dropped; reserve means that the disk is full but
    this time held-back space was used; gap means that the file has lost records, a snapshot is wanted;
    fenced precedes WriterGone.
    """

    operation: str
    errno: int
    message: str


@dataclass(frozen=True, slots=True)
class WriterGone:
    """The writer has ended; its status is the reaper's to tell."""

    pid: int


@dataclass(frozen=True, slots=True)
class Overflow:
    """`append` took nothing: too much is waiting, or a snapshot is wanted first."""

    refused_total: int


JournalEvent = Opened | Reopened | Durable | CompactionDone | Failed | WriterGone
