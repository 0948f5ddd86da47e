"""Faults 30 and 31: processes in D state past every kill, and whatever touches a file system that does not answer.

Two real causes: a FUSE mount whose server never answers, and a frozen file system on a loop device. A worker that
SIGKILL does not end is fenced and replaced and a reboot recommended; a helper of it that does not end is residue. The
files that hang are the worker's, the agent's telemetry's and the evidence's; the journal's are in test_journal_disk.py.
"""

from __future__ import annotations

import json
import re
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import fault_makers as make
from tests.faults.fault_node import LOST_AFTER_S
from tests.faults.node_stock import stat_fields
from tests.faults.oracles import Expectation, judged
from tests.faults.registry import fault
from tests.support.dead_mount import dead_mount, why_no_dead_mount
from tests.support.loop_disk import loop_disk, why_no_loop_disk
from tests.support.processes import wait_until
from tests.support.vitals_subject import http_get

if TYPE_CHECKING:
    from tests.faults.fault_node import FaultNode

pytestmark = [pytest.mark.slow, pytest.mark.root]

UNKILLABLE_S = 1.0
FENCED = Expectation(
    recover_within_s=LOST_AFTER_S + UNKILLABLE_S + 3.0,
    cause=("lost",),
    explains=(),
    condition="WorkerUnkillable",
)
"""Judged when the disk has let the old worker die: from then on nothing of it may be left."""


def is_in_d(pid: int) -> bool:
    fields = stat_fields(pid)
    return fields is not None and fields[0] == "D"


def has_sigkill_pending(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    pending = re.findall(r"^S(?:hd|ig)Pnd:\t(\w+)$", status, re.MULTILINE)
    return any(int(mask, 16) & 1 << 8 for mask in pending)


def conditions(status: dict[str, Any]) -> dict[str, str]:
    return {one["type"]: one["message"] for one in status["conditions"]}


def is_fenced_and_replaced(node: FaultNode, main: int) -> None:
    """What the node says and does while the main process of its old worker can't be ended."""
    status = node.wait_for(lambda status: status["fenced"] and status["phase"] == "running", "a successor")
    assert is_in_d(main)
    assert has_sigkill_pending(main)
    assert status["worker"]["pid"] != main
    assert "reboot of the node is recommended" in conditions(status)["WorkerUnkillable"]
    assert "WorkerUnkillable" in json.dumps(status["conditions"])
    # And the next nanny knows it, too.
    node.again(unkillable_timeout_s=UNKILLABLE_S)
    after = node.wait_for_phase("running")
    assert (after["incarnation"], after["fenced"]) == (status["incarnation"], status["fenced"])
    assert "WorkerUnkillable" in conditions(after)


def has_died_at_last(node: FaultNode) -> None:
    """The disk lets go of it, and what SIGKILL began is finished."""
    status = node.wait_for(lambda status: not status["fenced"], "the fenced worker to die")
    assert "WorkerUnkillable" not in conditions(status)


@fault("30", "the worker in D state on a FUSE mount, past SIGKILL", by="nanny: SIGKILL without death", why_not=why_no_dead_mount)  # fmt: skip
def test_a_worker_that_sigkill_does_not_end_is_fenced_and_replaced(node: FaultNode) -> None:
    dead = node.directory / "dead"
    program = make.program(node, "until_cue()", f"os.stat({str(dead / 'file')!r})")
    main = node.begin(program, unkillable_timeout_s=UNKILLABLE_S)["worker"]["pid"]
    with judged(node, expects=FENCED) as case:
        with dead_mount(dead):
            make.cue(node)
            case.begins()
            is_fenced_and_replaced(node, main)
        has_died_at_last(node)


@fault("30", "the worker in D state on a frozen disk, past SIGKILL", by="nanny: D state waited for, then SIGKILL without death", why_not=why_no_loop_disk)  # fmt: skip
def test_a_worker_on_a_frozen_disk_is_given_time_then_fenced(node: FaultNode) -> None:
    with loop_disk(node.directory / "disk") as disk:
        program = make.program(node, "until_cue()", f"open({str(disk.path / 'file')!r}, 'w').write('x')")
        settings = {"unkillable_timeout_s": UNKILLABLE_S, "starvation_limit_s": 1.0}
        main = node.begin(program, **settings)["worker"]["pid"]
        disk.freeze()
        with judged(node, expects=FENCED) as case:
            make.cue(node)
            case.begins()
            wait_until(lambda: is_in_d(main), 20, "the worker to hang in the frozen disk")
            is_fenced_and_replaced(node, main)
            # D state is no proof against a worker: it was waited for first, and the condition said why in the end.
            assert '"NodeStarved"' in node.log()
            disk.thaw()
            has_died_at_last(node)


@fault("30", "a child of the worker in D state, past SIGKILL", by="nanny: its cgroup does not empty", why_not=why_no_dead_mount)  # fmt: skip
def test_a_child_of_the_worker_in_d_state_is_residue_and_no_reason_to_wait(node: FaultNode) -> None:
    told = node.directory / "child"
    dead = node.directory / "dead"
    expects = Expectation(recover_within_s=1.0, cause=("SIGKILL",), explains=(), condition="ProbeResidue")
    with ExitStack() as mount:
        mount.enter_context(dead_mount(dead))
        program = make.program(
            node,
            f"if not os.path.exists({str(told)!r}):",
            "    child = os.fork()",
            f"    if child == 0: os.stat({str(dead / 'file')!r})",
            f"    with open({str(told)!r}, 'w') as file: file.write(str(child))",
            "beat_for_ever()",
        )
        before = node.begin(program)
        wait_until(lambda: told.exists() and told.read_text(), 20, "the child")
        child = int(told.read_text())
        with judged(node, expects=expects) as case:
            make.oom_kill(before["worker"]["pid"])
            case.begins()
            status = node.wait_for(lambda status: "ProbeResidue" in conditions(status), "residue")
            assert is_in_d(child)
            assert has_sigkill_pending(child)
            assert "WorkerUnkillable" not in conditions(status)
            assert status["fenced"] == []
            mount.close()
            node.wait_for(lambda status: "ProbeResidue" not in conditions(status), "the residue to be gone")


@fault("31", "the file system that the agent measures is dead", by="agent: a disposable child overran", why_not=why_no_dead_mount)  # fmt: skip
def test_telemetry_of_a_dead_mount_is_unknown_and_the_worker_kept(node: FaultNode) -> None:
    with dead_mount(node.directory / "dead") as dead:
        program, environment = make.own_agent(node, mounts=f'["/", "{dead}"]', probe_deadline_s="0.5")
        node.start(program, environment, *node.flags(heartbeat_timeout_s=4, stall_timeout_s=20), "--port=0")
        node.wait_for_phase("running")

        def metrics() -> str:
            host, _, port = node.status()["healthz"].rpartition(":")
            with suppress(OSError):
                return http_get((host.strip("[]"), int(port)), "/metrics").body
            return ""

        def said(pattern: str) -> list[str]:
            return re.findall(f"^nodenanny_{pattern}$", metrics(), re.MULTILINE)

        with judged(node, expects=Expectation(restarts=0)):
            wait_until(
                lambda: said(r'filesystem_answers\{mount="/"\} (1)') and said(rf'filesystem_answers{{mount="{dead}"}} (0)'),
                60, "one mount to answer and one not to",
            )  # fmt: skip
            wait_until(lambda: said(r"probes_stuck ([1-9]\S*)"), 60, "a probe past SIGKILL")
            stuck = [float(said(r"probes_stuck (\S+)")[0])]
            taken = float(said(r"samples_total (\S+)")[0])
            wait_until(lambda: float(said(r"samples_total (\S+)")[0]) > taken + 4, 60, "samples to go on")
            stuck.append(float(said(r"probes_stuck (\S+)")[0]))
            assert max(stuck) <= 2, "children that can't be ended are capped"
            # A dead disk is no dead driver.
            assert "GpuDriverUnresponsive" not in conditions(node.status())
            assert '"FileSystemSilent"' in node.log()


@fault("31", "the disk of the evidence is dead", by="nanny: a collector's deadline", why_not=why_no_dead_mount)  # fmt: skip
def test_evidence_on_a_dead_disk_holds_no_kill(node: FaultNode) -> None:
    status = node.begin()
    expects = Expectation(
        restarts=None,
        recover_within_s=2 * (LOST_AFTER_S + 4.0),
        cause=("lost", "process state T"),
        explains=(),
    )
    with judged(node, expects=expects) as case:
        with dead_mount(node.state_dir / "evidence"):
            for _ in range(2):
                make.stop(status["worker"]["pid"])
                status = node.wait_for_next(status)
            case.recovered()
        (node.state_dir / "evidence").rmdir()
