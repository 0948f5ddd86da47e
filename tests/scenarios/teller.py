"""Plays a scenario: commands in, the core's reactions out, as text that reads like a story and diffs well.

A command stands at the beginning of a line, the reaction is indented below it. Knows the words of the scenario files
and no expectations: those are the files themselves.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from nanny.core import events as e
from nanny.core.config import ChildTiming, PolicyConfig
from nanny.core.policy import next_deadline, step
from nanny.core.startup import Living, recover
from nanny.core.state import NannyState, Phase
from nanny.protocol.incarnation import Incarnation

if TYPE_CHECKING:
    from nanny.core.records import Record

_EPOCHS = ("e", "spare")


def told(script: str) -> str:
    """The script with its reactions renewed."""
    teller = Teller()
    lines: list[str] = []
    for line in script.splitlines():
        if line.startswith("    "):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            lines += [f"    {reaction}" for reaction in teller.play(line)]
    return "\n".join(lines) + "\n"


class Teller:
    """One nanny's mind, driven by words."""

    def __init__(self) -> None:
        self.config = PolicyConfig(link=None)
        self.now = 0.0
        self.history: list[tuple[Record, float | None]] = []
        self.orders = 0
        self.state = self._recovered(())

    def play(self, line: str) -> Iterator[str]:
        """Play one command and tell what came of it."""
        verb, *words = shlex.split(line)
        options = dict(word.split("=", 1) for word in words if "=" in word)
        flags = [word for word in words if "=" not in word]
        if verb == "config":
            self._configure(options)
        elif verb == "advance":
            yield from self._advance(_seconds(flags[0]))
        elif verb == "retry":
            deadline = (
                self.state.worker.deadline if self.state.phase in {Phase.BACKOFF, Phase.FAILED} else None
            )
            yield from self._advance(0 if deadline is None else deadline - self.now)
        elif verb == "cycles":
            yield from self._cycles(int(flags[0]), " ".join(flags[1:]))
        elif verb == "crash":
            yield from self._crash(flags[0])
        else:
            yield from self._deliver(_EVENTS[verb](self, flags, options))

    @property
    def current(self) -> Incarnation:
        assert self.state.incarnation is not None, "no worker was spawned yet"
        return self.state.incarnation

    def _configure(self, options: dict[str, str]) -> None:
        for key, value in options.items():
            if key == "link":
                self.config = replace(self.config, link=ChildTiming())
            elif key in {field.name for field in fields(ChildTiming)}:
                number: float = int(value) if key == "crash_loop_after" else float(value)
                timing = replace(self.config.worker, **{key: number})  # type: ignore[arg-type]
                self.config = replace(self.config, worker=timing)
            else:
                changed: dict[str, Any] = {key: type(getattr(self.config, key) or 0)(value)}
                self.config = replace(self.config, **changed)

    def _deliver(self, event: e.Event) -> Iterator[str]:
        before = self.state
        result = step(before, event, self.now, self.config)
        self.state = result.state
        self.history += [(record, self.now) for record in result.records]
        yield f"{self.now:g} s  {before.phase} -> {self.state.phase}"
        for record in result.records:
            yield f"record  {_shown(record)}"
        for action in result.actions:
            yield f"do      {_shown(action)}"
        for one in self.state.conditions:
            if before.condition(one.type) != one:
                yield f"holds   {one.type}: {one.message}"
        deadline = next_deadline(self.state, self.config)
        yield "next    nothing" if deadline is None else f"next    in {deadline - self.now:.3g} s"

    def _advance(self, by_s: float) -> Iterator[str]:
        until = self.now + by_s
        while (deadline := next_deadline(self.state, self.config)) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            yield from self._deliver(e.TimePassed())
            if any(action in _ASKS for action in self._last_actions()):
                return
        self.now = until
        yield f"{self.now:g} s"

    def _last_actions(self) -> list[str]:
        suspicion = self.state.vitals.suspicion
        return ["asked"] if suspicion is not None and suspicion.asked else []

    def _cycles(self, count: int, script: str) -> Iterator[str]:
        """The same commands again and again, told only by where they lead."""
        for _ in range(count):
            for line in script.split(";"):
                for _reaction in self.play(line.strip()):
                    pass
        yield f"{self.now:.0f} s  {self.state.phase}, {self.state.incarnation}, failures {self.state.worker.failures}"

    def _crash(self, worker: str) -> Iterator[str]:
        living: tuple[Living, ...] = ()
        if worker == "worker-lives":
            is_ready = self.state.worker.since if self.state.worker.stage == "ready" else None
            living = (Living(self.current, self.state.worker.pid, is_ready is not None),)
        self.state = self._recovered(living)
        yield f"a new nanny finds {worker}: {self.state.phase}, wants {self.state.intent.desired}"

    def _recovered(self, living: tuple[Living, ...]) -> NannyState:
        return recover(self.history, living, self.now, _EPOCHS, self.config).state


_ASKS = frozenset({"asked"})


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def _shown(value: object) -> str:
    parts = []
    for field in fields(value):  # type: ignore[arg-type]
        inner = getattr(value, field.name)
        if inner is None or inner == "":
            continue
        if isinstance(inner, e.Command):
            inner = f"{inner.kind} {inner.id}"
        parts.append(f"{field.name}={inner if isinstance(inner, StrEnum) else str(inner)}")
    return f"{type(value).__name__} {' '.join(parts)}".rstrip()


Made = Callable[[Teller, list[str], dict[str, str]], e.Event]


def _beat(teller: Teller, flags: list[str], options: dict[str, str]) -> e.Event:
    return e.HeartbeatReceived(
        teller.current,
        watchdog="status-only" not in flags,
        ready="ready" in flags,
        stopping="stopping" in flags,
        trigger="trigger" in flags,
        loop_lag_s=float(options.get("lag", "0")),
        overdue=tuple(one for one in options.get("overdue", "").split(",") if one),
        expected_s=float(options.get("expect", "0")),
        stalled_at=options.get("at", ""),
        extend_s=float(options.get("extend", "0")),
        stuck_probes=int(options.get("stuck", "0")),
    )


def _examined(teller: Teller, flags: list[str], options: dict[str, str]) -> e.Event:
    return e.WorkerExamined(
        teller.current,
        flags[0],
        traced="traced" in flags,
        runqueue_wait_s=float(options.get("runqueue", "0")),
        throttled_s=float(options.get("throttled", "0")),
    )


def _order(teller: Teller, flags: list[str], options: dict[str, str]) -> e.Event:
    teller.orders += 1
    target = options.get("target")
    aimed_at = None
    if target == "current":
        aimed_at = teller.current
    elif target is not None:
        aimed_at = Incarnation(teller.current.epoch, int(target))
    return e.CommandReceived(
        e.Command(
            id=options.get("id", f"order-{teller.orders}"),
            kind=e.CommandKind(flags[0]),
            time_to_live_s=float(options.get("ttl", "60")),
            reason="scenario",
            actor="server" if "local" not in flags else "operator",
            source=e.Source.LOCAL if "local" in flags else e.Source.SERVER,
            target=aimed_at,
            for_s=float(options["for"]) if "for" in options else None,
        )
    )


def _journal(teller: Teller, flags: list[str], _options: dict[str, str]) -> e.Event:
    if flags[0] == "degraded":
        return e.JournalDegraded("the disk does not answer")
    return e.JournalRecovered(f"spare-after-{teller.now:g}")


def _link(teller: Teller, flags: list[str], _options: dict[str, str]) -> e.Event:
    number = teller.state.link_number
    match flags[0]:
        case "spawned":
            return e.LinkSpawned(number, 200 + number)
        case "ready":
            return e.LinkBeat(number, ready=True)
        case "beat":
            return e.LinkBeat(number)
        case _:
            return e.LinkExited(number, " ".join(flags[1:]))


_EVENTS: dict[str, Made] = {
    "start": lambda *_: e.NannyStarted(),
    "confirmed": lambda t, *_: e.NumbersConfirmed(t.state.epoch, t.state.reserving_until),
    "parked": lambda t, *_: e.WorkerParked(t.current, 100 + t.current.number, 1),
    "spawn-failed": lambda t, f, _: e.SpawnFailed(t.current, " ".join(f)),
    "ready": lambda t, f, o: _beat(t, ["ready", *f], o),
    "beat": _beat,
    "examined": _examined,
    "evidence": lambda t, f, o: e.EvidenceCollected(t.current, f[0] if f else "bundle", "", o.get("id", "")),
    "exit": lambda t, f, o: e.WorkerExited(
        Incarnation(t.current.epoch, int(o["of"])) if "of" in o else t.current, " ".join(f)
    ),
    "memory": lambda t, f, _: e.MemoryMeasured(t.current, int(f[0])),
    "order": _order,
    "ack": lambda _t, f, _o: e.OutcomeAcknowledged(f[0]),
    "journal": _journal,
    "late": lambda _t, f, _o: e.NannyWasLate(_seconds(f[0])),
    "resumed": lambda _t, f, _o: e.NodeResumed(_seconds(f[0])),
    "shutdown": lambda *_: e.ShutdownRequested(),
    "link": _link,
}
