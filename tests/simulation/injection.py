"""What each kind of fault does to a node: the only writer of troubles.

A fault meets the node as it is: one of the worker finds the worker that owns the node now, or nobody. What happens on
the machine happens once the machine is awake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nanny.core import events as e
from tests.simulation.faults import ARMED_S
from tests.simulation.local_operator import Operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.faults import Fault
    from tests.simulation.machine import Machine
    from tests.simulation.worker import Worker

MEMORY_LIMIT_BYTES: Final = 1 << 30


def inflict(machine: Machine, fault: Fault) -> None:
    """Let the fault happen now."""
    machine.server.patience.troubled(machine, fault.ends_at)
    if fault.kind in _OF_THE_WORKER:
        machine.after(0.0, _worker, machine, fault)
    elif fault.kind in _OF_THE_MACHINE:
        machine.after(0.0, _machine, machine, fault)
    else:
        _OUTSIDE[fault.kind](machine, fault.given)
        machine.oracles.look(machine)


def _worker(machine: Machine, fault: Fault) -> None:
    owner = machine.owner
    if owner is not None:
        machine.disturb()
        _OF_THE_WORKER[fault.kind](owner, machine.mono, fault.given)
        machine.server.patience.troubled(machine, machine.world.now + fault.given.get("for_s", 0.0))


def _machine(machine: Machine, fault: Fault) -> None:
    machine.disturb()
    # It may come later than it was meant to: the machine was away.
    machine.server.patience.troubled(machine, machine.world.now + fault.ends_at - fault.at)
    _OF_THE_MACHINE[fault.kind](machine, fault.given)


def _stalls(worker: Worker, now: float, given: dict[str, Any]) -> None:
    if worker.stalled_until <= now:
        worker.stalled_at = now
    worker.stalled_until = max(worker.stalled_until, now + given["lasts_s"])


def _overdue(worker: Worker, now: float, given: dict[str, Any]) -> None:
    worker.overdue_until = now + given["lasts_s"]


def _silent(worker: Worker, now: float, given: dict[str, Any]) -> None:
    worker.silent_until = max(worker.silent_until, now + given["lasts_s"])
    worker.letter = given["letter"]


def _uninterruptible(worker: Worker, now: float, given: dict[str, Any]) -> None:
    worker.unkillable_until = max(worker.unkillable_until, now + given["for_s"])


def _traced(worker: Worker, now: float, given: dict[str, Any]) -> None:
    worker.traced_until = now + given["for_s"]
    _silent(worker, now, {"lasts_s": given["for_s"], "letter": "t"})


def _starved_worker(worker: Worker, now: float, given: dict[str, Any]) -> None:
    worker.starved_until = now + given["for_s"]
    _silent(worker, now, {"lasts_s": given["for_s"], "letter": "R"})


def _ignores_term(worker: Worker, _now: float, _given: dict[str, Any]) -> None:
    worker.ignores_term = True


def _says_stopping(worker: Worker, _now: float, given: dict[str, Any]) -> None:
    worker.leaving = True
    worker.machine.beats.begin(worker)
    if given["exits_s"] < 1e6:
        worker.machine.after(given["exits_s"], worker.die, "exit code 0")


def _triggers(worker: Worker, _now: float, _given: dict[str, Any]) -> None:
    worker.triggers = True
    worker.machine.beats.begin(worker)


def _driver_hangs(worker: Worker, now: float, given: dict[str, Any]) -> None:
    worker.stuck_until = now + given["for_s"]


def _long_work(worker: Worker, now: float, given: dict[str, Any]) -> None:
    worker.long_work_until = now + given["for_s"]
    _stalls(worker, now, {"lasts_s": given["for_s"]})


def _memory(worker: Worker, _now: float, _given: dict[str, Any]) -> None:
    worker.machine.tell_nanny(e.MemoryMeasured(worker.incarnation, MEMORY_LIMIT_BYTES + 1))


_OF_THE_WORKER: Final[dict[str, Callable[[Worker, float, dict[str, Any]], None]]] = {
    "exits": lambda worker, _now, given: worker.die(given["status"]),
    "stalls": _stalls,
    "overdue": _overdue,
    "silent": _silent,
    "uninterruptible": _uninterruptible,
    "traced": _traced,
    "starved-worker": _starved_worker,
    "ignores-term": _ignores_term,
    "says-stopping": _says_stopping,
    "triggers": _triggers,
    "driver-hangs": _driver_hangs,
    "known-long-work": _long_work,
    "memory": _memory,
}


def _until(*names: str) -> Callable[[Machine, dict[str, Any]], None]:
    """Set instants of the machine to the end of the trouble."""

    def inflicted(machine: Machine, given: dict[str, Any]) -> None:
        for name in names:
            setattr(machine, name, machine.mono + given["for_s"])

    return inflicted


def _spawns_late(machine: Machine, given: dict[str, Any]) -> None:
    machine.spawns_late_until = machine.mono + given["for_s"]
    machine.late_by_s = given["by_s"]


def _starts_slow(machine: Machine, given: dict[str, Any]) -> None:
    machine.slow_until = machine.mono + given["for_s"]
    machine.slow_by_s = given["by_s"]


def _settings_hang(machine: Machine, given: dict[str, Any]) -> None:
    machine.settings_hang_until = machine.mono + given["for_s"]
    machine.settings_are_refused = given["refused"]


def _killed_at_effect(machine: Machine, given: dict[str, Any]) -> None:
    machine.arm_crash(given["effects"], given["surviving"], given["down_s"], given["worker_dies"])
    machine.after(ARMED_S, machine.strike, machine.nanny_life)


def _nanny_ended(machine: Machine, given: dict[str, Any]) -> None:
    machine.restart_after_s = given["down_s"]
    machine.tell_nanny(e.ShutdownRequested())


def _disk_fails(machine: Machine, given: dict[str, Any]) -> None:
    _disk_hangs(machine, given)
    life = machine.nanny_life
    if life is not None:
        life.durability.fail("append: Input/output error")


def _disk_hangs(machine: Machine, given: dict[str, Any]) -> None:
    disk = machine.disk
    disk.silent_until = max(disk.silent_until, machine.world.now + given["for_s"])
    if machine.nanny_life is not None:
        machine.nanny_life.durability.fell_silent()


def _link_killed(machine: Machine, _given: dict[str, Any]) -> None:
    if machine.link is not None:
        machine.link.die("SIGKILL")


def _link_hangs(machine: Machine, given: dict[str, Any]) -> None:
    if machine.link is not None:
        machine.link.hang(given["for_s"])


def _local_order(machine: Machine, given: dict[str, Any]) -> None:
    machine.local_orders += 1
    command_id = f"0190e0a0-0001-7000-8000-{machine.local_orders:012x}"
    state = machine.state
    present = None if state is None else state.incarnation
    target = None
    if given["aim"] in {"present", "past", "future"} and present is not None:
        number = present.number + {"present": 0, "past": -1, "future": 1}[given["aim"]]
        target = f"{present.epoch}/{max(number, 1)}"
    for copy in range(given["copies"]):
        asked = {
            "id": copy,
            "do": "command",
            "command_id": command_id,
            "kind": given["do"],
            "time_to_live_s": given["ttl_s"],
            "reason": command_id,
            "actor": "operator",
            "target": target,
            "for_s": given.get("for_s"),
        }
        machine.after(0.01 * copy, machine.request, Operator(), asked)


_OF_THE_MACHINE: Final[dict[str, Callable[[Machine, dict[str, Any]], None]]] = {
    "spawns-fail": _until("spawns_fail_until"),
    "spawns-late": _spawns_late,
    "exec-fails": _until("execs_fail_until"),
    "starts-die": _until("starts_die_until"),
    "starts-slow": _starts_slow,
    "dies-when-ready": _until("ready_ones_die_until"),
    "nanny-killed": lambda machine, given: machine.kill_nanny(**given),
    "nanny-killed-at-effect": _killed_at_effect,
    "nanny-stopped": lambda machine, given: machine.stop_nanny(given["for_s"]),
    "nanny-ended": _nanny_ended,
    "evidence-hangs": _until("evidence_hangs_until"),
    "settings-hang": _settings_hang,
    "disk-hangs": _disk_hangs,
    "disk-fails": _disk_fails,
    "power-lost": lambda machine, given: machine.lose_power(**given),
    "suspended": lambda machine, given: machine.suspend(given["for_s"]),
    "starved": lambda machine, given: machine.starve(given["for_s"]),
    "link-killed": _link_killed,
    "link-hangs": _link_hangs,
    "links-fail": _until("links_fail_until"),
    "local-order": _local_order,
}


def _parted(machine: Machine, given: dict[str, Any]) -> None:
    network = machine.server.network_of(machine)
    if machine.link is not None and machine.link.connection is not None:
        machine.link.connection.wake()
    network.parted_until = max(network.parted_until, machine.world.now + given["for_s"])


def _cut(machine: Machine, _given: dict[str, Any]) -> None:
    if machine.link is not None and machine.link.connection is not None:
        machine.link.connection.cut()


def _frames(name: str) -> Callable[[Machine, dict[str, Any]], None]:
    def inflicted(machine: Machine, given: dict[str, Any]) -> None:
        network = machine.server.network_of(machine)
        getattr(network, name)[given["way"]] += given["count"]
        network.delay_s = given.get("by_s", network.delay_s)

    return inflicted


def _probe_blocked(machine: Machine, given: dict[str, Any]) -> None:
    network = machine.server.network_of(machine)
    network.probe_blocked_until = max(network.probe_blocked_until, machine.world.now + given["for_s"])


def _server_restarts(machine: Machine, given: dict[str, Any]) -> None:
    server = machine.server
    for one in server.machines.values():
        server.patience.troubled(one, one.world.now + given["down_s"])
    server.restart(given["down_s"])


def _order(machine: Machine, given: dict[str, Any]) -> None:
    machine.server.submit(
        machine, given["do"], given["aim"], given["ttl_s"], given["copies"], given.get("for_s")
    )


_OUTSIDE: Final[dict[str, Callable[[Machine, dict[str, Any]], None]]] = {
    "partition": _parted,
    "cut": _cut,
    "frames-lost": _frames("lost"),
    "frames-doubled": _frames("doubled"),
    "frames-delayed": _frames("delayed"),
    "frames-reordered": _frames("swapped"),
    "probe-blocked": _probe_blocked,
    "server-restarts": _server_restarts,
    "order": _order,
}
