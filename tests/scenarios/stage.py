"""Plays a scenario: one command a line, under each the core's reaction, indented.

A reaction names the instant, the phase, the records and the actions of each step that had any, and at the end what
comes next by itself, in the words of ``nannyctl explain``. Epochs are A, B, C; jitter is the real one, of node "node".
The commands are the methods called ``do_*``; a ``#`` begins a comment.
"""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from nanny.core import events as e
from nanny.core import invariants, startup
from nanny.core.child import Stage
from nanny.core.config import ChildTiming, HeartbeatMode, PolicyConfig
from nanny.core.events import Command, CommandKind, Source
from nanny.core.explain import explain
from nanny.core.policy import next_deadline, step
from nanny.core.records import IncarnationStarted, Record, to_json
from nanny.core.state import NannyState

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanny.protocol.incarnation import Incarnation

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """Seconds of "6s", "30m", "1.5h", "200ms"."""
    unit = next(
        unit for unit in _UNITS_S if text.endswith(unit) and text[: -len(unit)].replace(".", "").isdigit()
    )
    return float(text[: -len(unit)]) * _UNITS_S[unit]


class Play:
    """A nanny in a world that does only what the scenario says."""

    def __init__(self) -> None:
        self.config = PolicyConfig()
        self.now = 0.0
        self.state = NannyState(epoch="A", spare_epoch="B")
        self.epochs = iter("BCDEFGHIJK")
        self.journal: list[tuple[Record, float]] = []
        self.lives: dict[Incarnation, IncarnationStarted] = {}
        self.told: list[str] = []

    def play(self, line: str) -> list[str]:
        """The reaction to one command, in lines."""
        self.told = []
        self._do(line)
        told = explain(self.state, self.now, self.config)
        when = "" if told.next_in_s is None else f" in {told.next_in_s:.1f} s"
        if not self.told:
            self.told.append(f"{self.now:.1f} s {self.state.phase}: nothing")
        return [*self.told, f"next{when}: {told.next_step}"]

    def _do(self, line: str) -> None:
        verb, *words = shlex.split(line)
        arguments = [word for word in words if "=" not in word]
        options = dict(word.split("=", 1) for word in words if "=" in word)
        method: Callable[..., None] = getattr(self, f"do_{verb.replace('-', '_')}")
        method(*arguments, **options)

    # Steps

    def tell(self, event: e.Event) -> None:
        before = self.state
        result = step(before, event, self.now, self.config)
        problems = invariants.violations(before, event, result, self.now, self.config)
        assert not problems, problems
        self.state = result.state
        self.journal += [(record, self.now) for record in result.records]
        if result.records or result.actions or before.phase is not self.state.phase:
            self.told.append(f"{self.now:.1f} s {self.state.phase}")
        for record in result.records:
            plain = to_json(record)
            self.told.append(f"  record {plain.pop('type')}{_words(plain)}")
        for action in result.actions:
            plain = {field.name: getattr(action, field.name) for field in fields(action)}
            self.told.append(f"  do {type(action).__name__}{_words(plain)}")

    @property
    def current(self) -> Incarnation:
        assert self.state.incarnation is not None
        return self.state.incarnation

    # The nanny

    def do_config(self, **options: str) -> None:
        """Settings by their names in PolicyConfig or ChildTiming."""
        for name, text in options.items():
            is_number = text.replace(".", "").isdigit()
            value: Any = text if not is_number else int(text) if name.endswith("_bytes") else float(text)
            if name == "link":
                self.config = replace(self.config, link=ChildTiming())
            elif name == "mode":
                self.config = replace(
                    self.config, worker=replace(self.config.worker, mode=HeartbeatMode(text))
                )
            elif name in {field.name for field in fields(ChildTiming)}:
                self.config = replace(self.config, worker=replace(self.config.worker, **{name: value}))
            else:
                self.config = replace(self.config, **{name: value})

    def do_start(self) -> None:
        """The nanny starts with an empty journal."""
        self.state = startup.recover([], (), self.now, ("A", next(self.epochs)), self.config).state
        self.tell(e.NannyStarted())

    def do_nanny_killed(self, worker: str = "alive", lost: str = "0") -> None:
        """It dies and starts again from its records, the last so many lost; the worker lives on, or does not."""
        kept = self.journal[: len(self.journal) - int(lost)]
        living = []
        for incarnation, started in self.lives.items():
            fenced = incarnation in self.state.fenced
            if fenced or worker == "alive":
                was_ready = self.state.worker.stage is Stage.READY
                living.append(startup.Living(incarnation, started.pid, was_ready and not fenced, fenced))
        epochs = (next(self.epochs), next(self.epochs))
        recovered = startup.recover([*kept], tuple(living), self.now, epochs, self.config)
        self.journal = kept
        self.state = recovered.state
        self.told += [f"found dead: {one}" for one in recovered.dead_unrecorded]
        self.told.append(f"{self.now:.1f} s {self.state.phase}, {self.state.incarnation}")
        self.tell(e.NannyStarted())

    def do_shutdown(self) -> None:
        self.tell(e.ShutdownRequested())

    def do_late(self, by: str) -> None:
        self.now += seconds(by)
        self.tell(e.NannyWasLate(seconds(by)))

    def do_away(self, for_: str) -> None:
        """The node was suspended; the monotonic clock stood still."""
        self.tell(e.NodeResumed(seconds(for_)))

    def do_journal(self, what: str) -> None:
        if what == "degraded":
            self.tell(e.JournalDegraded("records are not written within 1 s"))
        elif what == "recovered":
            self.tell(e.JournalRecovered(next(self.epochs)))
        else:
            assert what == "confirmed"
            self.tell(e.NumbersConfirmed(self.state.epoch, self.state.reserving_until))

    def do_health_socket(self, what: str) -> None:
        self.tell(e.HealthSocketLost("shut down by a holder") if what == "lost" else e.HealthSocketRestored())

    def do_residue(self, count: str) -> None:
        self.tell(e.ResidueObserved(int(count)))

    # Time

    def do_advance(self, by: str) -> None:
        """Time goes on; every deadline on the way is served in time."""
        end = self.now + seconds(by)
        while (deadline := next_deadline(self.state, self.config)) is not None and deadline <= end:
            self.now = max(deadline, self.now)
            self.tell(e.TimePassed())
        self.now = end

    def do_wait(self) -> None:
        """Time goes on to the next deadline."""
        deadline = next_deadline(self.state, self.config)
        assert deadline is not None
        self.now = max(deadline, self.now)
        self.tell(e.TimePassed())

    def do_beats(self, for_: str, **options: str) -> None:
        """A beat each interval, for so long."""
        end = self.now + seconds(for_)
        while self.now < end and self.state.worker.stage is Stage.READY:
            self.do_advance(f"{min(self.config.worker.heartbeat_interval_s, end - self.now)}s")
            self.do_beat(**options)

    def do_repeat(self, times: str, *lines: str) -> None:
        """The same commands again and again; only the last time is told."""
        for _ in range(int(times)):
            self.told = []
            for line in lines:
                self._do(line)

    # The worker

    def do_parked(self, incarnation: str = "current") -> None:
        whom = self._life(incarnation)
        self.lives[whom] = IncarnationStarted(whom, 100 + whom.number, 1)
        self.tell(e.WorkerParked(whom, 100 + whom.number, 1))

    def do_spawn_failed(self, message: str) -> None:
        self.tell(e.SpawnFailed(self.current, message))

    def do_ready(self) -> None:
        self.tell(e.HeartbeatReceived(self.current, ready=True))

    def do_up(self) -> None:
        """A worker is born and gets ready a second later."""
        self.do_parked()
        self.now += 1.0
        self.do_ready()

    def do_beat(self, *flags: str, **options: str) -> None:
        self.tell(
            e.HeartbeatReceived(
                self.current,
                watchdog="status" not in flags,
                ready="ready" in flags,
                stopping="STOPPING" in flags,
                trigger="trigger" in flags,
                loop_lag_s=float(options.get("lag", "0")),
                overdue=tuple(filter(None, options.get("overdue", "").split(","))),
                expected_s=float(options.get("expected", "0")),
                stalled_at=options.get("at", ""),
                extend_s=seconds(options["extend"]) if "extend" in options else 0.0,
                stuck_probes=int(options.get("stuck_probes", "0")),
            )
        )

    def do_exit(self, status: str, incarnation: str = "current") -> None:
        whom = self._life(incarnation)
        self.lives.pop(whom, None)
        self.tell(e.WorkerExited(whom, status))

    def do_examined(self, process_state: str, **options: str) -> None:
        traced = options.get("traced") == "yes"
        runqueue, throttled = float(options.get("runqueue", "0")), float(options.get("throttled", "0"))
        self.tell(e.WorkerExamined(self.current, process_state, traced, runqueue, throttled))

    def do_evidence(self, bundle: str, **options: str) -> None:
        self.tell(e.EvidenceCollected(self.current, bundle, "", options.get("for", "")))

    def do_memory(self, rss_bytes: str) -> None:
        self.tell(e.MemoryMeasured(self.current, int(rss_bytes)))

    # Orders

    def do_order(self, kind: str, **options: str) -> None:
        ordered = Command(
            id=options.get("id", kind),
            kind=CommandKind(kind),
            time_to_live_s=float(options.get("ttl", "60")),
            reason=options.get("reason", "because"),
            actor=options.get("by", "server"),
            source=Source.SERVER if options.get("by", "server") == "server" else Source.LOCAL,
            target=self._life(options["target"]) if "target" in options else None,
            for_s=seconds(options["for"]) if "for" in options else None,
        )
        self.tell(e.CommandReceived(ordered))

    def do_acknowledged(self, command_id: str) -> None:
        self.tell(e.OutcomeAcknowledged(command_id))

    def do_settings(self, what: str, **options: str) -> None:
        name = options.get("for", "")
        if what == "refused":
            self.tell(e.ConfigRejected("stall_timeout_s: 0 is not above 0", name))
        else:
            self.tell(e.ConfigReloaded(("stall_warn_s",), ("state_dir",), name))

    # Link

    def do_link(self, what: str, number: str = "") -> None:
        which = int(number) if number else self.state.link_number
        events: dict[str, e.Event] = {
            "born": e.LinkSpawned(which, 200 + which),
            "failed": e.LinkSpawnFailed(which, "no such user"),
            "beat": e.LinkBeat(which),
            "ready": e.LinkBeat(which, ready=True),
            "exited": e.LinkExited(which, "exit code 1"),
        }
        self.tell(events[what])

    def _life(self, name: str) -> Incarnation:
        by = {"current": 0, "past": -1, "future": 1}
        if name in by:
            return replace(self.current, number=self.current.number + by[name])
        epoch, _, number = name.partition("/")
        return replace(self.current, epoch=epoch, number=int(number))


def _words(plain: dict[str, Any]) -> str:
    words = []
    for name, value in plain.items():
        if isinstance(value, dict):
            words.append(
                f" {value['kind']} id={value['id']}"
                + (f" target={value['target']}" if value["target"] else "")
            )
        elif name == "local" or value is None or value in {"", False}:
            continue
        else:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            words.append(f" {name}={shlex.quote(text) if ' ' in text else text}")
    return "".join(words)


def played(text: str) -> str:
    """The scenario with its reactions as they are now."""
    play = Play()
    lines = []
    for line in text.splitlines():
        if line.startswith(" "):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            lines += [f"    {told}" for told in play.play(line)]
    return "\n".join(lines) + "\n"
