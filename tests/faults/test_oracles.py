"""Every oracle can fail: each kind of damage is planted on a real node, and the oracle whose business it is says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults import fault_makers as make
from tests.faults.fault_node import fault_node, send
from tests.faults.journal_story import Story
from tests.faults.node_stock import NodeStock, take_stock
from tests.faults.oracles import Expectation, JudgedCase, OracleFailed, judged, promises_of
from tests.support.processes import wait_until
from tests.support.real_nanny import BEATS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.faults.fault_node import FaultNode

pytestmark = [pytest.mark.faults, pytest.mark.slow]
UNTOUCHED = Expectation(restarts=0)


@contextmanager
def says(*words: str) -> Iterator[None]:
    """The block is judged, and all of these words are in what is wrong."""
    with pytest.raises(OracleFailed) as failed:
        yield
    wrong = "\n".join(failed.value.wrong)
    assert all(word in wrong for word in words), wrong


def test_a_healthy_node_has_nothing_wrong(node: FaultNode) -> None:
    node.begin()
    with judged(node, expects=UNTOUCHED):
        pass
    [verdict] = node.verdicts
    assert (verdict.detect_s, verdict.recover_s, verdict.evidence) == (None, None, "-")


def test_a_second_worker_is_seen(node: FaultNode) -> None:
    status = node.begin()
    environ = node.environment() | {"NANNY_INCARNATION": status["incarnation"]}
    with says("2 workers of one incarnation"), judged(node, expects=UNTOUCHED):
        second = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", BEATS], env=environ, start_new_session=True
        )
    second.kill()
    second.wait()


def test_a_worker_of_an_earlier_life_is_seen(node: FaultNode) -> None:
    node.begin()
    environ = node.environment() | {"NANNY_INCARNATION": "01900000-0000-7000-8000-000000000001/1"}
    with says("processes of earlier workers live"), judged(node, expects=UNTOUCHED):
        earlier = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", BEATS], env=environ, start_new_session=True
        )
    earlier.kill()
    earlier.wait()


@pytest.mark.parametrize(("signum", "words"), [(signal.SIGKILL, "bystander is"), (signal.SIGSTOP, "bystander was stopped")])  # fmt: skip
def test_a_harmed_bystander_is_seen(node: FaultNode, signum: int, words: str) -> None:
    node.begin()
    with says(words), judged(node, expects=UNTOUCHED):
        send(node.bystander.process.pid, signum)
        wait_until(node.bystander.harm, 10, "the signal to arrive")


def forge(node: FaultNode, *records: Mapping[str, object]) -> None:
    """Append records to the journal, as a nanny that does wrong would have written them."""
    path = max(node.state_dir.glob("journal.0*.jsonl"))
    last = json.loads(path.read_bytes().splitlines()[-1][9:])["n"]
    with path.open("ab") as file:
        for count, record in enumerate(records, 1):
            body = json.dumps({"n": last + count, "at": time.monotonic(), "wall": "2026-05-01T12:00:00.000Z", "boot": "b", **record}).encode()  # fmt: skip
            file.write(b"%08x %b\n" % (zlib.crc32(body), body))


def test_a_command_with_two_outcomes_and_one_with_none_are_seen(node: FaultNode) -> None:
    node.begin()
    outcome = {"type": "command-finished", "command_id": "twice", "kind": "drain", "outcome": "done", "detail": "", "incarnation": None, "local": True}  # fmt: skip
    accepted = {"type": "command-accepted", "command": {"id": "never", "kind": "drain"}}
    with (
        says("command twice has 2 outcomes", "command never has no outcome"),
        judged(node, expects=UNTOUCHED),
    ):
        forge(node, outcome, outcome, accepted)


def test_an_unexpected_outcome_is_seen(node: FaultNode) -> None:
    node.begin()
    expects = Expectation(restarts=0, outcomes=("rejected",))
    with says("outcomes ('done',), expected ('rejected',)"), judged(node, expects=expects):
        node.order("drain")


def test_an_incarnation_that_does_not_grow_is_seen(node: FaultNode) -> None:
    status = node.begin()
    with says("follows", "1 worker(s) were started, expected 0"), judged(node, expects=UNTOUCHED):
        forge(node, {"type": "incarnation-started", "incarnation": status["incarnation"], "pid": 1, "start_time_ticks": 1})  # fmt: skip


def test_a_restart_that_was_not_promised_is_seen(node: FaultNode, monkeypatch: pytest.MonkeyPatch) -> None:
    before = node.begin()
    with says("2 worker(s) were started, expected 1"), judged(node, expects=Expectation(restarts=1)):
        for _ in range(2):
            node.signal_worker(signal.SIGKILL)
            before = node.wait_for_next(before)


def test_a_file_left_over_is_seen(node: FaultNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.faults.oracles.LEFTOVERS_S", 0.1)
    node.begin()
    with says("files in the runtime directory: {'left-over': 1} more"), judged(node, expects=UNTOUCHED):
        (node.runtime_dir / "left-over").touch()


def test_what_grew_in_the_nanny_is_told(node: FaultNode) -> None:
    node.begin()
    stock = take_stock(node)
    grown = NodeStock(
        nanny_pid=stock.nanny_pid,
        descriptors=stock.descriptors + stock.descriptors.__class__(["pipe:[#]", *["/memfd:stacks-#"] * 9]),
        threads=2,
        zombies=1,
        runtime_files=stock.runtime_files,
        cgroups=stock.cgroups + 2,
        helpers=stock.helpers + 1,
    ).grown_since(stock)
    assert [one.split()[0] for one in grown] == ["descriptors", "10", "the", "1", str(stock.cgroups + 2), str(stock.helpers + 1)]  # fmt: skip


def test_a_real_descriptor_too_many_is_seen(node: FaultNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.faults.oracles.LEFTOVERS_S", 0.1)
    node.begin()
    clients = []
    with says("descriptors of the nanny: {'socket:[#]': 1} more"), judged(node, expects=UNTOUCHED):
        clients.append(node.connect())
        clients[0].ask("status")
    clients[0].socket.close()


def test_missing_evidence_is_seen(node: FaultNode) -> None:
    node.begin()
    with says("no finished evidence"), judged(node, expects=Expectation(evidence=True)):
        before = node.status()
        node.signal_worker(signal.SIGSTOP)
        node.wait_for_next(before)
        wait_until(lambda: list((node.state_dir / "evidence").glob("2*")), 10, "the bundle")
        for bundle in (node.state_dir / "evidence").iterdir():
            bundle.rename(node.directory / bundle.name)


def test_evidence_without_bounds_is_seen(node: FaultNode) -> None:
    node.begin()
    with says("bytes"), judged(node, expects=UNTOUCHED):
        bundle = node.state_dir / "evidence" / "20260501T120000.123456Z-1-lost"
        bundle.mkdir(parents=True)
        with (bundle / "stacks.txt").open("wb") as file:
            file.truncate(9 << 20)


def test_a_missed_watchdog_is_seen() -> None:
    with fault_node(watchdog_s=0.6) as node:
        node.begin()
        with says("did not pet for"), judged(node, expects=UNTOUCHED):
            node.send(signal.SIGSTOP)
            began = time.monotonic()
            wait_until(lambda: time.monotonic() - began > 1.5, 10, "time to pass")
            node.send(signal.SIGCONT)


def test_a_broken_promise_is_seen(node: FaultNode) -> None:
    status = node.begin()
    expects = Expectation(detect_within_s=0.1, recover_within_s=0.1)
    case = JudgedCase(node, expects, status, take_stock(node), 0, time.monotonic())
    assert promises_of(case, None, None) == ["never detected", "never recovered"]
    assert [one.split(",")[0] for one in promises_of(case, 100.0, 200.0)] == ["detected after 100.0 s", "recovered after 200.0 s"]  # fmt: skip
    assert promises_of(case, 0.1, 0.1) == []


def test_a_wrong_cause_is_seen(node: FaultNode) -> None:
    node.begin(make.dies_by_abort(node))
    expects = Expectation(cause=("SIGSEGV",))
    words = ("history does not tell of 'SIGSEGV'", "explain does not name 'SIGSEGV'")
    with says(*words), judged(node, expects=expects):
        make.cue(node)


def test_a_condition_that_was_not_raised_is_seen(node: FaultNode) -> None:
    node.begin()
    expects = Expectation(restarts=0, condition="NodeStarved")
    with says("condition NodeStarved was never raised"), judged(node, expects=expects):
        pass


def test_history_is_what_nannyctl_tells(node: FaultNode) -> None:
    node.begin()
    with judged(node, expects=Expectation(cause=("SIGKILL",))):
        node.signal_worker(signal.SIGKILL)
    told = subprocess.run(
        [
            sys.executable,
            "-m",
            "nanny.nannyctl",
            f"--state-dir={node.state_dir}",
            f"--runtime-dir={node.runtime_dir}",
            "history",
        ],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"NO_COLOR": "1"},
    )
    assert "SIGKILL; failure 1 in a row" in told.stdout, told.stderr
    assert Story((), 0).told() == ""
    assert Path(node.control_path).exists()
