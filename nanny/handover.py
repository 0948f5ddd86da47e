"""What this nanny leaves to the next one: facts in /run, a compacted journal, and itself executed anew in place.

``reexec`` keeps pid, children, lock, claim and listening socket (execve(2)); whatever else the next image needs, it
recovers as after a crash. So both ways of coming back are one, and each upgrade tries what a crash relies on.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from nanny import facts, launch
from nanny.control_requests import OPERATING
from nanny.core import startup
from nanny.core.child import Stage
from nanny.core.records import IncarnationStarted, to_json
from nanny.worker_spec import LISTENER_NAME

if TYPE_CHECKING:
    from nanny.common.log_lines import LogLines
    from nanny.control import Client, ControlSocket
    from nanny.durability import Durability
    from nanny.event_loop import EventLoop
    from nanny.health_socket import HealthSocket
    from nanny.link_process import LinkProcess
    from nanny.reload import Reloader
    from nanny.supervisor import Supervisor
    from nanny.worker_process import WorkerProcess

_OUTCOMES_IN_FACTS: Final = 32
_REEXEC_PAUSE_S: Final = 60.0


@dataclass(slots=True)
class Handover:
    """The parts whose state the next nanny needs."""

    started: launch.Launch
    facts_path: str
    boot_id: str
    lock_fd: int
    claim_fd: int
    supervisor: Supervisor
    loop: EventLoop
    workers: WorkerProcess
    link: LinkProcess
    health: HealthSocket
    durability: Durability
    reloader: Reloader
    control: ControlSocket
    lines: LogLines
    is_wanted: bool = False
    """Whether a re-execution was asked for and is still to come."""
    _not_before: float = 0.0

    def serve(self) -> None:
        """Answer ``reexec`` on the control socket."""
        self.control.serve("reexec", OPERATING, self._serve_reexec)

    def snapshot(self, delivered_limit: int | None = None) -> list[dict[str, Any]]:
        """The state as records; of outcomes that nobody waits for any more, only the latest so many."""
        state = self.supervisor.state
        # One that is parked belongs in as soon as the core knows it: it is released after this is written.
        living = tuple(
            IncarnationStarted(life.incarnation, life.pid, life.start_time_ticks)
            for life in self.workers.lives.values()
            if life.parked is None or life.pid == state.worker.pid
        )
        at = round(self.loop.now, 3)
        if delivered_limit is not None:
            state = replace(state, ledger=state.ledger.without_old_delivered(delivered_limit))
        return [{**to_json(record), "at": at} for record in startup.compact(state, living)]

    def write_facts(self) -> None:
        """Keep in /run what adoption needs when the journal's disk is silent."""
        records = [{**record, "boot": self.boot_id} for record in self.snapshot(_OUTCOMES_IN_FACTS)]
        known = {
            "boot": self.boot_id,
            "records": records,
            "link": self.link.remembered,
            "forgetful": self.supervisor.state.is_forgetful,
        }
        try:
            facts.write_facts(self.facts_path, known)
        except (OSError, ValueError) as error:
            self.lines.error("the facts for adoption could not be written", error=str(error))

    def remove_facts(self) -> None:
        """Leave nothing to adopt: an ordered end. What a degraded journal never got stays for the next nanny.

        Raises:
            OSError: there is no such file, or it can't be removed.
        """
        if not self.durability.degraded:
            os.unlink(self.facts_path)

    def _serve_reexec(self, request: dict[str, Any], client: Client) -> None:
        """Once the program on disk has shown that it can be loaded, and has read the settings."""

        def read(problem: str) -> None:
            if problem:
                self.control.refuse(client, request.get("id"), f"not executed anew: {problem}")
                return
            self.control.answer(client, request.get("id"), {"reexecuting": True, "pid": os.getpid()})
            self.is_wanted = True

        self.reloader.read(read)

    def attend(self) -> None:
        """Execute the nanny anew if that is wanted and everything decided is durable, or degraded for good."""
        if not (self.is_wanted or self.durability.wants_fresh_start) or self.loop.now < self._not_before:
            return
        is_born = self.supervisor.state.worker.stage is not Stage.SPAWNING and self.supervisor.is_idle
        if not is_born or not self.durability.is_settled:
            return
        self.is_wanted = False
        # Once more in a while, if it fails.
        self._not_before = self.loop.now + _REEXEC_PAUSE_S
        listeners = {} if self.health.fd < 0 else {LISTENER_NAME: [os.dup(self.health.fd)]}
        self.lines.info("executing anew", pid=os.getpid())
        self.write_facts()
        again = launch.Launch(
            settings=self.reloader.latest,
            resolve_argv=self.started.resolve_argv,
            version=self.started.version,
            node_id=self.started.node_id,
            node_name=self.started.node_name,
            lock_fd=self.lock_fd,
            claim_fd=self.claim_fd,
            listeners=listeners,
            reexecuted=self.started.reexecuted + 1,
        )
        try:
            launch.execute(again, os.environ)
        except OSError as error:
            self.lines.error("could not execute anew; going on as before", error=str(error))
            for fd in (again.lock_fd, again.claim_fd):
                if fd >= 0:
                    os.set_inheritable(fd, False)
            for fd in listeners.get(LISTENER_NAME, []):
                os.close(fd)
