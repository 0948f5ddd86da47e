"""A simulated node: who it is, what its /healthz answers, what its two connections say.

Bodies are rendered once for each life, in the words of the real vitals thread; ages in them stand still. A node
that is gone has neither connections nor an open door; one that is back has a new life. When something happens
to it, others decide.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from nanny.protocol.incarnation import Incarnation
from nanny.protocol.messages import (
    CommandAccepted,
    CommandOutcome,
    Desired,
    Hello,
    NannyReport,
    Outcome,
    Registration,
    Role,
    WorkerReport,
)
from server_stub.fleet.doors import Door
from server_stub.fleet.peer import Peer
from server_stub.fleet.plan import Behaviour, address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nanny.protocol.messages import CommandOrder, LinkMessage
    from server_stub.fleet.doors import Answering
    from server_stub.fleet.plan import NodePlan
    from server_stub.fleet.surroundings import Surroundings

VERSION: Final = "simulated"
STALLED_AT: Final = "collectives.py:118 in all_reduce"
TELEMETRY: Final[Mapping[str, Any]] = {
    "host": {
        "cpu": {"busy_ratio": 0.31, "cores": 64, "load_1m": 19.8},
        "memory": {"total_bytes": 549755813888, "available_bytes": 412316860416, "used_ratio": 0.25},
    },
    "gpu": {
        "devices": [
            {
                "index": index,
                "uuid": f"GPU-{index:08x}",
                "busy_ratio": 0.93,
                "memory_used_bytes": 68719476736,
                "memory_total_bytes": 85899345920,
                "temperature_c": 61,
                "power_w": 412.5,
            }
            for index in range(8)
        ]
    },
}
"""What a node of eight GPUs tells: reports are to weigh what they weigh."""


CAPACITY: Final[Mapping[str, Any]] = {"cpus": 64, "gpus": 8, "memory_bytes": 549755813888}
NODES_OF_A_RACK: Final = 40


def identity(index: int) -> str:
    """Give a node's id, which is its name, too."""
    return f"sim-{index:06d}"


def labels(index: int) -> dict[str, str]:
    """Give a node's labels."""
    return {"rack": f"rack-{index // NODES_OF_A_RACK:05d}", "fleet": "simulated"}


def incarnation_of(run: str, index: int, number: int) -> Incarnation:
    """Give a life of a node; later runs sort behind earlier ones."""
    return Incarnation(f"{run}-8000-{index:012x}", number)


class SimulatedNode:
    """One node; made for a share of the fleet and told what to do by it."""

    def __init__(self, plan: NodePlan, around: Surroundings, slow_s: float) -> None:
        self.plan = plan
        self.id = identity(plan.index)
        self.address = address(plan.index)
        self.number = 0
        self.is_there = False
        self.has_registered = asyncio.Event()
        self.connections: set[Answering] = set()
        self._around = around
        self._slow_s = slow_s
        self._way = plan.behaviour
        self._own_door = Door(lambda _: self, self.address) if plan.behaviour is Behaviour.CHURNING else None
        self._worker = Peer(self, Role.WORKER, around, stays=plan.is_connected)
        self._link = Peer(self, Role.LINK, around, stays=True) if plan.is_connected else None
        self._response = b""

    @property
    def incarnation(self) -> Incarnation:
        """The present life of its worker."""
        return incarnation_of(self._around.run, self.plan.index, self.number)

    # What happens to it

    def arrive(self, *, is_known: bool = False) -> None:
        """Begin a new life: answer, and say who it is, unless the server knows it from before."""
        self.number += 1
        self.is_there = True
        self.behave(self.plan.behaviour)
        if self._own_door is not None:
            self._own_door.open()
        if self._link is not None:
            self._link.start()
        if is_known and not self.plan.is_connected:
            self.has_registered.set()
        else:
            self._worker.start()

    def leave(self) -> None:
        """Be gone without a word."""
        self.is_there = False
        if self._own_door is not None:
            self._own_door.shut()
        self._worker.stop()
        if self._link is not None:
            self._link.stop()
        self.drop_connections()

    def restart_worker(self) -> None:
        """A new life of the worker; the link stays."""
        self.number += 1
        self._worker.stop()
        self.behave(self._way)
        self._worker.start()

    def behave(self, way: Behaviour) -> None:
        """Answer in this way from now on."""
        self._way = way
        self._response = _response(self.incarnation, is_stalled=way is Behaviour.STALLED)

    def drop_connections(self) -> None:
        """Break off what probers have open."""
        for connection in list(self.connections):
            connection.drop()

    def close(self) -> None:
        """Be gone, and give the port up."""
        self.leave()
        if self._own_door is not None:
            self._own_door.close()

    # What it answers

    def asked(self, connection: Answering) -> None:
        """Answer a request for /healthz in its way."""
        self._around.counts.asked += 1
        if self._way is Behaviour.SILENT:
            return
        if self._way is Behaviour.SLOW:
            asyncio.get_running_loop().call_later(self._slow_s, connection.answer, self._response)
        else:
            connection.answer(self._response)

    # What its connections say

    def hello(self, role: Role) -> Hello:
        """Say who it is."""
        return Hello(
            role=role,
            protocol_versions=(1,),
            node_id=self.id,
            node_name=self.id,
            machine_id=f"machine-of-{self.id}",
            boot_id=f"boot-of-{self.id}",
            software_version=VERSION,
            incarnation=self.incarnation,
        )

    def registration(self) -> Registration:
        """Say where it can be asked."""
        return Registration(
            incarnation=self.incarnation,
            addresses=(self.address,),
            healthz_port=self._port(),
            capacity=dict(CAPACITY),
            labels=labels(self.plan.index),
            software_version=VERSION,
            started_age_s=0.5,
        )

    def registered(self) -> None:
        """The server has stored the registration."""
        self._around.counts.registered += 1
        self.has_registered.set()

    def report(self, role: Role, seq: int) -> NannyReport | WorkerReport:
        """Say how it goes."""
        is_stalled = self._way is Behaviour.STALLED
        if role is Role.WORKER:
            return WorkerReport(seq=seq, loop_lag_s=0.002, telemetry=dict(TELEMETRY), conditions=())
        return NannyReport(
            phase="degraded" if is_stalled else "running",
            desired=Desired.UP,
            desired_by="default",
            desired_reason="",
            desired_since_s=60.0,
            incarnation=self.incarnation,
            worker_state="stalled" if is_stalled else "beating",
            loop_lag_s=95.0 if is_stalled else 0.002,
            beat_age_s=0.7,
            conditions=(),
            restarts={},
            last_restart=None,
            next_step="",
            next_step_in_s=None,
            hold_remaining_s=None,
            draining=False,
            nanny_version=VERSION,
            journal_degraded=False,
            uptime_s=60.0,
        )

    def ordered(self, order: CommandOrder) -> list[LinkMessage]:
        """Carry out a command as a nanny does: a restart aimed at an earlier life is done already."""
        self._around.counts.orders += 1
        accepted = CommandAccepted(order.command_id)
        if order.kind != "restart":
            return [
                accepted,
                CommandOutcome(order.command_id, Outcome.REJECTED, "a simulated node restarts only"),
            ]
        if order.target is not None and order.target < self.incarnation:
            return [
                accepted,
                CommandOutcome(order.command_id, Outcome.ALREADY_SATISFIED, "", self.incarnation),
            ]
        self.restart_worker()
        return [accepted, CommandOutcome(order.command_id, Outcome.DONE, "", self.incarnation)]

    def _port(self) -> int:
        if self._own_door is not None:
            return self._own_door.port
        if self.plan.behaviour is Behaviour.REFUSING:
            return self._around.refusing.port
        return (self._around.failing if self.plan.fails else self._around.steady).port


def _response(incarnation: Incarnation, *, is_stalled: bool) -> bytes:
    """Render /healthz as the vitals thread does for one who may see where it stands."""
    body: dict[str, Any] = {
        "status": "stalled" if is_stalled else "ok",
        "incarnation": str(incarnation),
        "ready": not is_stalled,
        "loop_lag_s": 95.0 if is_stalled else 0.002,
        "progress": {"reconcile": {"age_s": 1.203, "deadline_s": 60.0, "critical": True}},
        "pid": 4242,
        "uptime_s": 86400.0,
    }
    if is_stalled:
        body |= {"failed": ["event-loop"], "stalled_at": STALLED_AT}
    content = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {'503 Service Unavailable' if is_stalled else '200 OK'}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nCache-Control: no-store\r\nConnection: keep-alive\r\n\r\n"
    )
    return head.encode() + content
