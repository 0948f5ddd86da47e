"""What nannyctl's exit codes mean: one table for code, ``--help`` and docs/nannyctl.md. From 64 on: sysexits(3)."""

from __future__ import annotations

from typing import Final

OK: Final = 0
NO: Final = 1
UNREACHABLE: Final = 2
USAGE: Final = 64
AGAIN: Final = 75
NOT_PERMITTED: Final = 77
BAD_SETTINGS: Final = 78
INTERRUPTED: Final = 130

MEANINGS: Final[dict[int, str]] = {
    OK: "yes, done, or already so",
    NO: "the answer is no: unhealthy, or the order was rejected, failed, expired or superseded",
    UNREACHABLE: "the nanny can't be reached (or, where files are read, the state directory can't)",
    USAGE: "the command line is wrong",
    AGAIN: "not now: deferred by the nanny, or still open when --timeout ran out; the same --id asks again",
    NOT_PERMITTED: "this user may not",
    BAD_SETTINGS: "check-config: the settings can't be used",
    INTERRUPTED: "Ctrl-C; what was ordered stands",
}


def text() -> str:
    """The table for ``--help``."""
    return "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANINGS.items())
