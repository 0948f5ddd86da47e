"""What this nanny shows of itself: the whole status, the short words for a fallback answer, the worker's last output.

Puts together what its parts know, when asked; keeps nothing and decides nothing. ``nanny.view`` renders the core's
state, this file adds the process around it. Answers from memory: nobody who asks may make the nanny wait.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanny import view
from nanny.control import RequestError
from nanny.control_requests import ALL, OPERATING

if TYPE_CHECKING:
    from nanny.control import Client, ControlSocket
    from nanny.durability import Durability
    from nanny.event_loop import EventLoop
    from nanny.evidence.desk import Saved
    from nanny.health_socket import HealthSocket
    from nanny.launch import Launch
    from nanny.log_outlet import LogOutlet
    from nanny.metrics import Counters
    from nanny.reaper import Reaper
    from nanny.recorder import FlightRecorder
    from nanny.supervisor import Supervisor
    from nanny.worker_output import WorkerOutput
    from nanny.worker_process import WorkerProcess

_WORDS = ("phase", "because", "next_step", "next_step_in_s", "incarnation", "desired")


@dataclass(slots=True)
class NannyStatus:
    """The parts that know something worth showing."""

    launch: Launch
    state_dir: str
    boot_id: str
    supervisor: Supervisor
    loop: EventLoop
    workers: WorkerProcess
    health: HealthSocket
    output: WorkerOutput | None
    durability: Durability
    reaper: Reaper
    outlet: LogOutlet
    counters: Counters
    control: ControlSocket
    recorder: FlightRecorder
    started_at: float

    def whole(self) -> dict[str, Any]:
        """The whole status, as JSON values; ages in seconds."""
        supervisor, responder = self.supervisor, self.health.responder
        return {
            **view.status(supervisor.state, self.loop.now, supervisor.config),
            "stall_stack": self._stall_stack(),
            "standby": None if self.workers.standby is None else self.workers.standby.shown(),
            "node_name": self.launch.node_name,
            "healthz": self.health.address,
            "state_dir": self.state_dir,
            "boot_id": self.boot_id,
            "nanny": {
                "version": self.launch.version,
                "pid": os.getpid(),
                "age_s": round(self.loop.now - self.started_at, 3),
                "reexecuted": self.launch.reexecuted,
                "late_s": round(self.loop.latest_s, 6),
                "steps_total": supervisor.steps_total,
                "errors_total": supervisor.errors_total + self.loop.errors_total,
                "violations_total": supervisor.violations_total,
            },
            "counters": {
                **self.counters.as_json(),
                "beats_total": self.workers.beats_total,
                "datagrams_refused_total": self.workers.refused_total,
                "children_reaped_total": self.reaper.reaped_total,
                "fallback_answers_total": 0 if responder is None else responder.answered_total,
                "control_refused_total": self.control.refused_total,
                "log_lines_dropped_total": self.outlet.dropped_total,
                "journal_bytes": self.durability.file_bytes,
            },
        }

    def words(self) -> dict[str, Any]:
        """What the fallback responder says in the worker's place."""
        told = self.whole()
        return {key: told[key] for key in _WORDS}

    def output_tail(self, limit_bytes: int) -> bytes:
        """The last of what the worker wrote."""
        return b"" if self.output is None else self.output.tail(limit_bytes)

    def serve(self) -> None:
        """Answer ``logs``, ``healthcheck`` and ``recording`` on the control socket."""
        self.control.serve("logs", OPERATING, self._serve_logs)
        self.control.serve("healthcheck", ALL, self._serve_healthcheck)
        self.control.serve("recording", OPERATING, self._serve_recording)

    def tell_evidence(self, saved: Saved) -> None:
        """Push to every subscriber that evidence was saved."""
        self.control.push(
            {
                "push": "evidence",
                "bundle": saved.name,
                "incarnation": str(saved.incarnation),
                "reason": saved.reason,
                "size_bytes": saved.size_bytes,
                "stalled_at": saved.stalled_at,
                "signature": saved.signature,
            }
        )

    def _stall_stack(self) -> str:
        """The stack of the loop while it stalls, as the latest beat told it."""
        life = self.workers.current()
        beat = None if life is None else life.last_beat
        return "" if beat is None else beat.stall_stack or ""

    def _serve_logs(self, request: dict[str, Any], _client: Client) -> dict[str, Any]:
        limit = request.get("limit_bytes", 65536)
        if not isinstance(limit, int) or not 0 < limit <= 1 << 20:
            raise RequestError("limit_bytes: 1 to 1048576")
        return {"text": self.output_tail(limit).decode("utf-8", "replace")}

    def _serve_recording(self, _request: dict[str, Any], _client: Client) -> dict[str, Any]:
        from binascii import b2a_base64  # noqa: PLC0415  # seldom asked for

        return {"gzip_base64": b2a_base64(self.recorder.dump(), newline=False).decode("ascii")}

    def _serve_healthcheck(self, _request: dict[str, Any], _client: Client) -> dict[str, Any]:
        state = self.supervisor.state
        return {"healthy": state.phase == "running", "phase": str(state.phase), "draining": state.draining}
