"""``reexec``: the nanny executes itself anew in place, and this proves it: same pid, one more time, same worker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from nanny.common.quantities import duration
from nanny.control_client import NannyUnreachable, RequestRefused, TryAgain
from nanny.ctl import exit_codes

if TYPE_CHECKING:
    import argparse

    from nanny.ctl.node import Node
    from nanny.ctl.terminal import Terminal

TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.02


def reexec(options: argparse.Namespace, node: Node, terminal: Terminal) -> int:
    """Ask, wait, compare."""
    began = time.monotonic()
    deadline = began + (options.timeout or TIMEOUT_S)
    before = _asked(node, deadline)
    after = _answering_anew(before, node, deadline, terminal)
    took_s = time.monotonic() - began
    if after is None:
        raise RequestRefused(
            f"nanny pid {_pid(before)} has not executed itself anew within {duration(took_s)}",
            "it goes on as it was; its log says why: journalctl -u nodenanny",
        )
    problems = []
    if _pid(after) != _pid(before):
        problems.append(f"another nanny answers: pid {_pid(after)}, not {_pid(before)}")
    if _worker(after) != _worker(before):
        problems.append(f"the worker changed: {_worker(before)} before, {_worker(after)} now")
    if options.json:
        terminal.json(
            {"before": _facts(before), "after": _facts(after), "problems": problems, "took_s": took_s}
        )
    else:
        paint = terminal.paint
        terminal.lines([f"before  {_shown(before)}", f"after   {_shown(after)}"])
        said = paint("bad", "; ".join(problems)) if problems else paint("good", "upgraded in place")
        terminal.lines([f"{said} in {duration(took_s)}"])
    return exit_codes.NO if problems else exit_codes.OK


def _asked(node: Node, deadline: float) -> dict[str, Any]:
    """Ask for it, again while a worker is being born; gives the status before."""
    while True:
        with node.connect() as client:
            before = client.request("status")
            try:
                client.request("reexec")
            except TryAgain:
                if time.monotonic() >= deadline:
                    raise
            else:
                return before
        time.sleep(_POLL_S * 5)


def _answering_anew(
    before: dict[str, Any], node: Node, deadline: float, terminal: Terminal
) -> dict[str, Any] | None:
    wanted = int((before.get("nanny") or {}).get("reexecuted") or 0) + 1
    while time.monotonic() < deadline:
        try:
            told = node.status()
        except (NannyUnreachable, TryAgain):
            told = {}
        nanny = told.get("nanny") or {}
        if nanny and (nanny.get("pid") != _pid(before) or int(nanny.get("reexecuted") or 0) >= wanted):
            return told
        terminal.transient(f"  waiting for nanny pid {_pid(before)} to answer anew")
        time.sleep(_POLL_S)
    return None


def _pid(status: dict[str, Any]) -> int:
    return int((status.get("nanny") or {}).get("pid") or 0)


def _worker(status: dict[str, Any]) -> str:
    return f"{status.get('incarnation')}, pid {(status.get('worker') or {}).get('pid')}"


def _facts(status: dict[str, Any]) -> dict[str, Any]:
    nanny, worker = status.get("nanny") or {}, status.get("worker") or {}
    return {
        "nanny": {key: nanny.get(key) for key in ("version", "pid", "reexecuted")},
        "worker": {"pid": worker.get("pid"), "incarnation": status.get("incarnation")},
    }


def _shown(status: dict[str, Any]) -> str:
    nanny = status.get("nanny") or {}
    return (
        f"nanny {nanny.get('version')}, pid {nanny.get('pid')}, executed anew {nanny.get('reexecuted')} times; "
        f"worker {_worker(status)}"
    )
