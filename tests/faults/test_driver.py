"""Faults 16 to 21: the GPU driver, with the repository's agent under the nanny and the unmodified NVML bindings.

A stand-in libnvidia-ml.so.1, compiled from C, blocks, spins or lies as a file tells it. A driver that hangs is a
condition and an event and never a restart: the successor would hang in the same call. What the healthy devices and
the host report goes on, and the children stuck in the driver are few. A real D state is in test_uninterruptible.py.
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.faults.oracles import Expectation, judged
from tests.faults.registry import fault
from tests.support.fake_nvml import CONTROL, build_fake_nvml, set_mode, why_no_fake_nvml
from tests.support.processes import wait_until
from tests.support.vitals_subject import http_get

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.fault_node import FaultNode
    from tests.faults.oracles import JudgedCase

PATIENCE_S = 60.0
STUCK_LIMIT = 8
"""Two for each key (inventory, sample, one device), and those that are on their way out."""
UNHARMED = Expectation(restarts=0)


class Gpus:
    """A node with three GPUs, and the driver's behaviour at hand."""

    def __init__(self, node: FaultNode) -> None:
        self.node = node
        self._mode = node.directory / "driver"
        self.set("ok")
        build_fake_nvml(node.directory)
        environ = {
            "AGENT_NODE_NAME": "tested",
            "AGENT_SAMPLE_INTERVAL_S": "0.3",
            "AGENT_PROBE_DEADLINE_S": "1",
            "LD_LIBRARY_PATH": str(node.directory),
            CONTROL: str(self._mode),
        }
        node.begin(
            (sys.executable, "-m", "agent.cli"), f"--environment={json.dumps(environ)}", "--port=0",
            heartbeat_timeout_s=4, stall_timeout_s=20,
        )  # fmt: skip
        self.until(lambda: self.states() == ["ok"] * 3, "three devices")

    def set(self, mode: str) -> None:
        """From its next call on the driver behaves so."""
        set_mode(self._mode, mode)

    def until(self, holds: object, what: str) -> None:
        """Wait until it holds; the log tells what came instead."""
        assert callable(holds)
        try:
            wait_until(holds, PATIENCE_S, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.metrics()[-3000:]}\n{self.node.log()[-3000:]}") from None

    def metrics(self) -> str:
        """What /metrics says; empty while it does not answer."""
        host, _, port = self.node.status()["healthz"].rpartition(":")
        with suppress(OSError):
            return http_get((host.strip("[]"), int(port)), "/metrics").body
        return ""

    def states(self) -> list[str]:
        """The state of each device, in order."""
        found = re.findall(r'gpu_state\{uuid="GPU-fake-(\d)",.*state="(\w+)"\} 1', self.metrics())
        return [state for _, state in sorted(found)]

    def figure(self, name: str) -> float:
        """The sum of a metric's series."""
        found = re.findall(rf"^nodenanny_{name}(?:{{.*}})? (\S+)$", self.metrics(), re.MULTILINE)
        return sum(map(float, found))

    def events(self, condition: str) -> list[str]:
        """Each status that the condition took on, in order."""
        lines = (json.loads(line) for line in self.node.log().splitlines() if '"condition changed"' in line)
        return [line["status"] for line in lines if line["type"] == condition]

    def samples_go_on(self, count: int = 3) -> None:
        """Wait for so many samples more."""
        before = self.figure("samples_total")
        self.until(lambda: self.figure("samples_total") >= before + count, f"{count} samples more")


@contextmanager
def broken(node: FaultNode, mode: str, condition: str) -> Iterator[tuple[Gpus, JudgedCase]]:
    """A driver that misbehaves in the block, and is whole again after it; judged as a whole."""
    gpus = Gpus(node)
    with judged(node, expects=UNHARMED) as case:
        gpus.set(mode)
        case.begins()
        gpus.until(lambda: gpus.events(condition)[-1:] == ["True"], f"the event {condition}")
        case.detected()
        yield gpus, case
        gpus.set("ok")
        gpus.until(lambda: gpus.events(condition)[-1:] == ["False"], f"{condition} to be over")
        gpus.until(lambda: gpus.states() == ["ok"] * 3, "every device to be back")
        gpus.until(lambda: gpus.figure("probes_overrun") == 0, "the stuck children to be gone")
        case.recovered()
        assert gpus.events(condition) == ["True", "False"]


@pytest.mark.parametrize("mode", ["hang", "spin"])
@fault("16", "every call into NVML blocks or spins", by="agent: a disposable child overran", why_not=why_no_fake_nvml)  # fmt: skip
def test_a_driver_that_answers_nobody_is_a_condition_and_no_restart(node: FaultNode, mode: str) -> None:
    with broken(node, mode, "GpuDriverUnresponsive") as (gpus, _):
        gpus.samples_go_on()
        assert gpus.figure("gpu_driver_answers") == 0
        assert gpus.figure("host_memory_total_bytes") > 0
        assert gpus.figure("probes_overrun") <= STUCK_LIMIT
        gpus.until(lambda: gpus.states() == ["unknown"] * 3, "every device to be unknown, none to be lost")


@pytest.mark.parametrize("mode", ["hang", "spin"])
@fault("17, 18", "one device's calls block or spin", by="agent: a disposable child overran", why_not=why_no_fake_nvml)  # fmt: skip
def test_a_device_that_does_not_answer_hides_no_other(node: FaultNode, mode: str) -> None:
    with broken(node, f"{mode} 1", "GpuDriverUnresponsive") as (gpus, _):
        gpus.until(lambda: gpus.states() == ["ok", "unknown", "ok"], "one device alone to be unknown")
        gpus.samples_go_on(5)
        assert gpus.states() == ["ok", "unknown", "ok"]
        # Temperatures of 40 and 42: a reading of each healthy device, none made up for the other.
        assert gpus.figure("gpu_temperature_celsius") == 82
        assert gpus.figure("probes_overrun") <= STUCK_LIMIT


@pytest.mark.parametrize(
    ("mode", "states"),
    [
        pytest.param("lost 1", ["ok", "lost", "ok"], id="xid-79"),
        pytest.param("missing 1", ["ok", "missing", "ok"], id="not-found"),
        pytest.param("dropped", ["ok", "ok", "missing"], id="count-drops"),
    ],
)
@fault("19, 21", "a device is lost, or is gone without a word", by="agent: NVML's answer, devices seen before", why_not=why_no_fake_nvml)  # fmt: skip
def test_a_device_that_is_gone_is_missed_and_the_worker_kept(
    node: FaultNode, mode: str, states: list[str]
) -> None:
    with broken(node, mode, "GpuLost") as (gpus, _):
        assert gpus.states() == states


@fault("20", '"unknown error" 999 on a handle', by="agent: NVML's answer", why_not=why_no_fake_nvml)
def test_an_unknown_error_is_unknown_and_not_lost(node: FaultNode) -> None:
    gpus = Gpus(node)
    with judged(node, expects=UNHARMED):
        gpus.set("unknown 1")
        gpus.until(lambda: gpus.states() == ["ok", "unknown", "ok"], "one device to be unknown")
        gpus.samples_go_on()
        assert gpus.events("GpuLost") == ["Unknown"]
        gpus.set("ok")
        gpus.until(lambda: gpus.states() == ["ok"] * 3, "the device to be back")
