"""Every fault twice: done to a real node, and how long until the server sees it READY again.

The second time is there because the second failure is where others stay down. A fault counts as healed when the
server shows the node READY with the life that followed it (or, where the worker must live on, with the same pid).
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from server_stub.demo.processes import DemoError

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_stub.demo.processes import Demo

_HEAL_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is done to the node."""

    name: str
    do: Callable[[Demo, dict[str, Any]], None]
    """Given the nanny's status before."""
    replaces_worker: bool
    detected_by: str
    """By whom, in words for the table."""


@dataclass(frozen=True, slots=True)
class Healed:
    """What became of one fault."""

    fault: str
    time: int
    detected: str
    detected_by: str
    ready_after_s: float | None
    verdict: str


def _worker_pid(status: dict[str, Any]) -> int:
    return int(status["worker"]["pid"])


def _restart(demo: Demo, status: dict[str, Any]) -> None:
    node = demo.node()
    assert node is not None
    body = {"kind": "restart", "reason": "demo", "actor": "demo", "target_incarnation": status["incarnation"]}
    demo.client.post("v1", "nodes", node["name"], "commands", body=body)


def _close_connection(demo: Demo, _status: dict[str, Any]) -> None:
    node = demo.node()
    assert node is not None
    demo.client.post("v1", "nodes", node["name"], "close-worker-connection", body={})


def _kill_nanny(demo: Demo, _status: dict[str, Any]) -> None:
    demo.kill_nanny()
    demo.start_nanny()


FAULTS: Final = (
    Fault(
        "SIGKILL of the worker", lambda d, s: d.signal(_worker_pid(s), signal.SIGKILL), True, "nanny: pidfd"
    ),
    Fault("loop blocked (sleep)", lambda d, _: d.inject("block 60"), True, "nanny: loop lag in the beats"),
    Fault("loop spinning", lambda d, _: d.inject("spin 60"), True, "nanny: loop lag in the beats"),
    Fault("GIL held by C code", lambda d, _: d.inject("gil 60"), True, "nanny: beats lost"),
    Fault(
        "SIGSTOP of the worker",
        lambda d, s: d.signal(_worker_pid(s), signal.SIGSTOP),
        True,
        "nanny: beats lost",
    ),
    Fault("server closes the connection", _close_connection, False, "worker: reconnects"),
    Fault("server orders a restart", _restart, True, "server: command through link"),
    Fault(
        "link killed",
        lambda d, s: d.signal(int(s["link"]["pid"]), signal.SIGKILL),
        False,
        "nanny: pidfd of link",
    ),
    Fault("nanny killed, started again", _kill_nanny, False, "systemd (here: the demo)"),
)


def run(demo: Demo, fault: Fault, time_number: int) -> Healed:
    """Do it, and wait until it has healed."""
    before = demo.until("nanny's answer", demo.nanny_status, 10)
    started = time.monotonic()
    try:
        fault.do(demo, before)
        after = demo.until("healing", lambda: _healed(demo, fault, before), _HEAL_TIMEOUT_S)
    except DemoError as error:
        return Healed(fault.name, time_number, "-", fault.detected_by, None, f"NOT BACK: {error}")
    ready_after_s = time.monotonic() - started
    return Healed(fault.name, time_number, _how(fault, after), fault.detected_by, ready_after_s, "healed")


def _healed(demo: Demo, fault: Fault, before: dict[str, Any]) -> dict[str, Any] | None:
    now = demo.nanny_status()
    if now is None or now["phase"] != "running" or now["link"]["stage"] != "ready":
        return None
    if fault.replaces_worker and now["incarnation"] == before["incarnation"]:
        return None
    if not fault.replaces_worker and now["worker"]["pid"] != before["worker"]["pid"]:
        raise DemoError(
            f"the worker was replaced: pid {before['worker']['pid']} before, {now['worker']['pid']} now"
        )
    if fault.name == "link killed" and now["link"]["pid"] == before["link"]["pid"]:
        return None
    if fault.name.startswith("nanny killed") and now["nanny"]["pid"] == before["nanny"]["pid"]:
        return None
    node = demo.node()
    if node is None or node["state"] != "READY" or node["incarnation"] != now["incarnation"]:
        return None
    open_links = [one for one in node["connections"].values() if one is not None and one["is_open"]]
    return now if len(open_links) == len(node["connections"]) else None


def _how(fault: Fault, after: dict[str, Any]) -> str:
    last = after["last_restart"]
    if fault.replaces_worker and last is not None:
        return f"{last['reason']}: {last['detail']}"
    return {
        "server closes the connection": "closed by the server; no restart, pid unchanged",
        "link killed": "link replaced; worker untouched",
    }.get(fault.name, f"worker adopted, pid {after['worker']['pid']} unchanged")
