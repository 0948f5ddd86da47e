"""The heartbeat's text: sd_notify's datagram, read into a `Beat` and written from one.

Assignments ``NAME=value``, one a line. What systemd has words for keeps its words, so the worker beats under
plain systemd and the nanny hears any program that speaks sd_notify; fields that we don't know are ignored.
Ours begin with ``X_``, as sd_notify asks of extensions. Numbers outside reason are the sender's fault and
refused; texts that are too long are cut: a beat must not be lost for the sake of its ornaments.

Knows nothing of sockets, senders and clocks. sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

from dataclasses import dataclass

from nanny.protocol.errors import ProtocolViolation

DATAGRAM_LIMIT_BYTES = 16 << 10
SECONDS_LIMIT = 10**9
STACK_LIMIT_BYTES = 4 << 10
"""Of `Beat.stall_stack`, before its newlines are escaped. All limits count bytes of UTF-8."""
TEXT_LIMIT_BYTES = 512
"""Of `Beat.status`, `expected_why` and `stalled_at`."""
NAME_LIMIT_BYTES = 48
"""Of a progress point's name and of `Beat.phase`."""
PROGRESS_LIMIT = 64
"""Progress points in one beat."""
COUNT_LIMIT = 2**53
_DIGITS_LIMIT = 20


@dataclass(frozen=True, slots=True)
class ProgressAge:
    """How long ago a progress point was touched, and how long ago it may be."""

    name: str
    """Without ``:``, ``,`` and control characters."""
    age_s: float
    deadline_s: float
    critical: bool
    """Over its deadline, the worker is stalled."""

    @property
    def is_overdue(self) -> bool:
        """The point was last touched longer ago than it promised."""
        return self.age_s > self.deadline_s


@dataclass(frozen=True, slots=True)
class Beat:
    """One datagram of a supervised program; what it didn't say is False, None or empty."""

    ready: bool = False
    stopping: bool = False
    reloading: bool = False
    watchdog: bool = False
    """The proof of life: ``WATCHDOG=1``."""
    trigger: bool = False
    """``WATCHDOG=trigger``: treat me as hung, now. Invariant: not together with `watchdog`."""
    status: str | None = None
    """One line for people."""
    extend_timeout_s: float | None = None
    errno: int | None = None
    mainpid: int | None = None
    """Claimed, never trusted: who speaks is told by the kernel."""
    seq: int | None = None
    """Grows by one with each beat of one life."""
    sent_at_s: float | None = None
    """CLOCK_MONOTONIC when it was sent."""
    loop_lag_s: float | None = None
    """Age of the event loop's last proof of progress, beyond what is due."""
    progress: tuple[ProgressAge, ...] = ()
    expected_until: float | None = None
    """Known-long work was announced: seconds left of it, relative so that no two clocks meet."""
    expected_why: str | None = None
    vitals_tid: int | None = None
    """Kernel thread id of the sender: its scheduling delay tells a starved node from a hung worker."""
    stalled_at: str | None = None
    """``module:function:line`` where the event loop stands, while it stands."""
    stall_stack: str | None = None
    stuck_probes: int | None = None
    """Probe helpers that overran their deadline and cannot be ended."""
    phase: str | None = None
    """Where the program is in its own life, in one word: a hint for people."""


def parse(datagram: bytes) -> Beat:
    """Read a notify datagram.

    Unknown fields, lines that are no assignment, and values that systemd too would ignore (``READY=yes``)
    count for nothing.

    Raises:
        ProtocolViolation: over 16 KiB, NUL bytes, not UTF-8, a known field twice, a number that is none or is
            beyond reason, malformed progress.
    """
    if len(datagram) > DATAGRAM_LIMIT_BYTES:
        raise ProtocolViolation(f"notify datagram of {len(datagram)} bytes, {DATAGRAM_LIMIT_BYTES} allowed")
    if b"\0" in datagram:
        raise ProtocolViolation("notify datagram with a NUL byte")
    try:
        text = datagram.decode()
    except UnicodeDecodeError as error:
        raise ProtocolViolation(f"notify datagram is not UTF-8 at byte {error.start}") from None
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        name, assigns, value = line.partition("=")
        if assigns and name in _KNOWN:
            if name in fields:
                raise ProtocolViolation(f"{name} twice in one notify datagram")
            fields[name] = value
    expected = _expected(fields.get("X_EXPECT"))
    return Beat(
        ready=fields.get("READY") == "1",
        stopping=fields.get("STOPPING") == "1",
        reloading=fields.get("RELOADING") == "1",
        watchdog=fields.get("WATCHDOG") == "1",
        trigger=fields.get("WATCHDOG") == "trigger",
        status=_text(fields, "STATUS", TEXT_LIMIT_BYTES),
        extend_timeout_s=_seconds(fields, "EXTEND_TIMEOUT_USEC"),
        errno=_count(fields, "ERRNO", 2**31),
        mainpid=_count(fields, "MAINPID", 2**31),
        seq=_count(fields, "X_SEQ", COUNT_LIMIT),
        sent_at_s=_seconds(fields, "X_SENT_US"),
        loop_lag_s=_seconds(fields, "X_LOOP_LAG_US"),
        progress=_progress(fields.get("X_PROGRESS", "")),
        expected_until=expected[0],
        expected_why=expected[1],
        vitals_tid=_count(fields, "X_VITALS_TID", 2**31),
        stalled_at=_text(fields, "X_STALLED_AT", TEXT_LIMIT_BYTES),
        stall_stack=_unescaped(fields.get("X_STALL_STACK")),
        stuck_probes=_count(fields, "X_STUCK_PROBES", 10**6),
        phase=_text(fields, "X_PHASE", NAME_LIMIT_BYTES),
    )


def render(beat: Beat) -> bytes:
    """Write a notify datagram of at most 16 KiB; never fails.

    Texts lose control characters (the stack keeps its newlines) and what is over their limit; seconds are
    rounded to microseconds, in ``X_PROGRESS`` and ``X_EXPECT`` to milliseconds, and brought into range.
    """
    lines = [
        text
        for said, text in (
            (beat.ready, "READY=1"),
            (beat.stopping, "STOPPING=1"),
            (beat.reloading, "RELOADING=1"),
            (beat.trigger, "WATCHDOG=trigger"),
            (beat.watchdog and not beat.trigger, "WATCHDOG=1"),
        )
        if said
    ]
    for name, instant in (
        ("EXTEND_TIMEOUT_USEC", beat.extend_timeout_s),
        ("X_SENT_US", beat.sent_at_s),
        ("X_LOOP_LAG_US", beat.loop_lag_s),
    ):
        if instant is not None:
            lines.append(f"{name}={_scaled(instant, 10**6)}")
    for name, number, limit in (
        ("ERRNO", beat.errno, 2**31),
        ("MAINPID", beat.mainpid, 2**31),
        ("X_SEQ", beat.seq, COUNT_LIMIT),
        ("X_VITALS_TID", beat.vitals_tid, 2**31),
        ("X_STUCK_PROBES", beat.stuck_probes, 10**6),
    ):
        if number is not None:
            lines.append(f"{name}={min(max(number, 0), limit)}")
    if beat.progress:
        lines.append("X_PROGRESS=" + _points(beat.progress[:PROGRESS_LIMIT]))
    if beat.expected_until is not None:
        why = _one_line(beat.expected_why or "", TEXT_LIMIT_BYTES)
        lines.append(f"X_EXPECT={_scaled(beat.expected_until, 1000)}:{why}")
    for name, line, limit in (
        ("STATUS", beat.status, TEXT_LIMIT_BYTES),
        ("X_STALLED_AT", beat.stalled_at, TEXT_LIMIT_BYTES),
        ("X_PHASE", beat.phase, NAME_LIMIT_BYTES),
    ):
        if line is not None:
            lines.append(f"{name}={_one_line(line, limit)}")
    if beat.stall_stack is not None:
        lines.append(f"X_STALL_STACK={_escaped(beat.stall_stack)}")
    return "\n".join(lines).encode()


_KNOWN = frozenset(
    {
        "ERRNO",
        "EXTEND_TIMEOUT_USEC",
        "MAINPID",
        "READY",
        "RELOADING",
        "STATUS",
        "STOPPING",
        "WATCHDOG",
        "X_EXPECT",
        "X_LOOP_LAG_US",
        "X_PHASE",
        "X_PROGRESS",
        "X_SENT_US",
        "X_SEQ",
        "X_STALLED_AT",
        "X_STALL_STACK",
        "X_STUCK_PROBES",
        "X_VITALS_TID",
    }
)


def _number(name: str, text: str, limit: int) -> int:
    # isdigit alone accepts other scripts' digits; the length bound keeps int() linear.
    if not (text.isascii() and text.isdigit()):
        raise ProtocolViolation(f"{name} is {text[:40]!r}, not a number")
    if len(text) > _DIGITS_LIMIT or int(text) > limit:
        raise ProtocolViolation(f"{name} is {text[:40]}, over {limit}")
    return int(text)


def _count(fields: dict[str, str], name: str, limit: int) -> int | None:
    text = fields.get(name)
    return None if text is None else _number(name, text, limit)


def _seconds(fields: dict[str, str], name: str) -> float | None:
    text = fields.get(name)
    return None if text is None else _number(name, text, SECONDS_LIMIT * 10**6) / 10**6


def _text(fields: dict[str, str], name: str, limit: int) -> str | None:
    text = fields.get(name)
    return None if text is None else _cut(text, limit)


def _expected(text: str | None) -> tuple[float | None, str | None]:
    if text is None:
        return None, None
    left_ms, _, why = text.partition(":")
    return _number("X_EXPECT", left_ms, SECONDS_LIMIT * 1000) / 1000, _cut(why, TEXT_LIMIT_BYTES)


def _progress(text: str) -> tuple[ProgressAge, ...]:
    if not text:
        return ()
    parts = text.split(",", PROGRESS_LIMIT)
    if len(parts) > PROGRESS_LIMIT:
        raise ProtocolViolation(f"X_PROGRESS with more than {PROGRESS_LIMIT} points")
    points = []
    for part in parts:
        shape = part.split(":")
        if len(shape) != 4 or not shape[0] or shape[3] not in {"c", "n"}:
            raise ProtocolViolation(f"X_PROGRESS point {part[:80]!r} is not name:age_ms:deadline_ms:c|n")
        age_ms = _number("X_PROGRESS age", shape[1], SECONDS_LIMIT * 1000)
        deadline_ms = _number("X_PROGRESS deadline", shape[2], SECONDS_LIMIT * 1000)
        points.append(
            ProgressAge(_cut(shape[0], NAME_LIMIT_BYTES), age_ms / 1000, deadline_ms / 1000, shape[3] == "c")
        )
    if len({point.name for point in points}) < len(points):
        raise ProtocolViolation("X_PROGRESS names a point twice")
    return tuple(points)


def _points(points: tuple[ProgressAge, ...]) -> str:
    by_name: dict[str, str] = {}
    for point in points:
        name = _one_line(point.name, NAME_LIMIT_BYTES).replace(":", "_").replace(",", "_") or "_"
        kind = "c" if point.critical else "n"
        by_name.setdefault(
            name, f"{name}:{_scaled(point.age_s, 1000)}:{_scaled(point.deadline_s, 1000)}:{kind}"
        )
    return ",".join(by_name.values())


def _scaled(seconds: float, per_second: int) -> int:
    # NaN fails both comparisons and is written as 0.
    within = seconds if 0 <= seconds <= SECONDS_LIMIT else SECONDS_LIMIT if seconds > 0 else 0
    return round(within * per_second)


def _cut(text: str, limit_bytes: int) -> str:
    # Cut in characters first, so that the cost does not grow with the text.
    return text[:limit_bytes].encode()[:limit_bytes].decode(errors="ignore")


def _one_line(text: str, limit_bytes: int) -> str:
    short = text[:limit_bytes]
    if not short.isprintable():  # control characters and lone surrogates
        short = "".join(c if c.isprintable() else " " for c in short)
    return _cut(short, limit_bytes)


def _escaped(text: str) -> str:
    short = "\n".join(_one_line(line, STACK_LIMIT_BYTES) for line in text[:STACK_LIMIT_BYTES].split("\n"))
    return _cut(short, STACK_LIMIT_BYTES).replace("\\", "\\\\").replace("\n", "\\n")


def _unescaped(text: str | None) -> str | None:
    if text is None:
        return None
    # A run of backslashes begins with a whole pair, so splitting at pairs leaves only the newlines' own.
    return _cut("\\".join(part.replace("\\n", "\n") for part in text.split("\\\\")), STACK_LIMIT_BYTES)
