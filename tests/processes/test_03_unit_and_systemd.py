"""Design 5.3, the unit and what is said upwards: the unit file's keys, SIGTERM, READY=1, the watchdog.

A notify socket of our own stands for systemd; the boot of a real one has tests of its own.
"""

import configparser
import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.notify_listener import NotifyListener, notify_listener
from tests.support.processes import wait_until
from tests.support.real_nanny import BEATS, PRELUDE, RealNanny

UNIT = Path(__file__).parents[2] / "packaging/systemd/nodenanny.service"


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read(UNIT)
    return parser


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("Service", "Type", "notify"),
        ("Service", "KillMode", "process"),
        ("Service", "Restart", "always"),
        ("Unit", "StartLimitIntervalSec", "0"),
        ("Service", "RuntimeDirectoryPreserve", "yes"),
        ("Service", "Delegate", "yes"),
        ("Service", "OOMPolicy", "continue"),
        ("Service", "WatchdogSec", "30s"),
    ],
)
def test_the_unit_has_what_the_worker_needs_to_outlive_the_nanny(section: str, key: str, value: str) -> None:
    assert unit()[section][key] == value


def test_the_unit_restarts_soon_ends_soon_and_sweeps_up() -> None:
    service = unit()["Service"]
    milliseconds = int(service["RestartSec"].removesuffix("ms"))
    assert 100 <= milliseconds <= 500
    assert int(service["TimeoutAbortSec"].removesuffix("s")) <= 10
    assert int(service["TimeoutStopSec"].removesuffix("s")) <= 60
    assert service["ExecStopPost"].endswith(" -m nanny.sweep")
    assert int(service["FileDescriptorStoreMax"]) >= 1


def test_sigterm_ends_the_worker_in_order_and_leaves_what_is_wanted(node: RealNanny) -> None:
    said = node.directory / "said"
    program = (
        PRELUDE
        + f"""
def bye(*_):
    open({str(said)!r}, "w").write("in order")
    sys.exit(0)
signal.signal(signal.SIGTERM, bye)
beat_for_ever()
"""
    )
    node.start(program)
    node.wait_for_phase("running")
    node.stop()
    assert said.read_text() == "in order"
    wait_until(lambda: not node.processes(), 10, "writers to end")
    node.start(program)
    assert node.wait_for_phase("running")["desired"] == {
        "value": "up",
        "by": "default",
        "reason": "never set",
        "age_s": None,
    }


def test_sigterm_twice_and_sigterm_with_a_deaf_worker_end_all_the_same(node: RealNanny) -> None:
    node.start(
        PRELUDE + "signal.signal(signal.SIGTERM, signal.SIG_IGN); beat_for_ever()", "--stop-grace-s=0.5"
    )
    node.wait_for_phase("running")
    node.send(signal.SIGTERM)
    node.wait_for_phase("stopping")
    node.send(signal.SIGTERM)
    assert node.wait_for_exit() == 0
    wait_until(lambda: not node.processes(), 10, "everything to end")


def test_sigterm_during_the_start_is_not_lost(node: RealNanny) -> None:
    node.start(BEATS, "--fault-point=recovering:STOP", wait=False)
    wait_until(lambda: _state(node.pid) == "T", 10, "the nanny to stop in its start")
    node.send(signal.SIGTERM)
    node.send(signal.SIGCONT)
    assert node.wait_for_exit() == 0
    wait_until(lambda: not node.processes(), 10, "everything to end")


def test_sigterm_while_the_journal_is_awaited_is_not_lost(node: RealNanny) -> None:
    """The state directory is a FIFO's neighbour: opening hangs nobody, and the signal comes in the wait."""
    node.start(BEATS, "--journal-timeout-s=5", wait=False)
    wait_until(lambda: len(node.processes()) > 1, 10, "its first helper")
    node.send(signal.SIGTERM)
    assert node.wait_for_exit() in {0, -signal.SIGTERM}
    wait_until(lambda: not node.processes(), 10, "everything to end")


def test_only_an_order_persists_down_and_it_does_over_restarts(node: RealNanny) -> None:
    node.start()
    node.wait_for_phase("running")
    assert node.order("stop")["outcome"] == "done"
    for end in (node.stop, node.kill):
        end()
        node.start()
        status = node.wait_for_phase("down")
        assert (status["desired"]["value"], status["desired"]["reason"]) == ("down", "test")
        assert node.workers() == []
    assert node.order("start")["outcome"] == "done"
    node.kill()
    node.start()
    node.wait_for_phase("running")


def test_ready_is_said_when_the_control_socket_is_open_and_not_for_the_worker(node: RealNanny) -> None:
    with notify_listener() as systemd:
        node.start(PRELUDE + "time.sleep(600)", environ={"NOTIFY_SOCKET": systemd.address}, wait=False)
        systemd.hear_until(lambda beat: beat.ready)
        status = node.status()
        assert status["phase"] == "starting"
        node.send(signal.SIGTERM)
        systemd.hear_until(lambda beat: beat.stopping)
        node.wait_for_exit()


def test_the_worker_never_speaks_to_the_nannys_own_notify_socket(node: RealNanny) -> None:
    with notify_listener() as systemd:
        node.start(environ={"NOTIFY_SOCKET": systemd.address})
        status = node.wait_for_phase("running")
        environ = Path(f"/proc/{status['worker']['pid']}/environ").read_bytes().split(b"\0")
        sockets = [one for one in environ if one.startswith(b"NOTIFY_SOCKET=")]
        assert len(sockets) == 1
        assert sockets[0].startswith(f"NOTIFY_SOCKET={node.runtime_dir}".encode())


def test_an_adopted_workers_phase_is_told_again(node: RealNanny) -> None:
    """Systemd forgets a service's words when its main process ends."""
    with notify_listener() as systemd:
        node.start(environ={"NOTIFY_SOCKET": systemd.address})
        before = node.wait_for_phase("running")
        node.kill()
        systemd.skip()
        node.start(environ={"NOTIFY_SOCKET": systemd.address})
        said = systemd.hear_until(lambda beat: bool(beat.status))
        assert said.status == f"running, incarnation {before['incarnation']}"


def pets_within(systemd: NotifyListener, seconds: float) -> int:
    """How often the watchdog is petted from now on."""
    systemd.skip()
    before, deadline = len(systemd.beats), time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        try:
            systemd.hear(left)
        except AssertionError:
            break
    return sum(beat.watchdog for beat in systemd.beats[before:])


@pytest.mark.slow
def test_the_watchdog_is_petted_by_the_loop_alone(node: RealNanny) -> None:
    """A worker that hangs is not the nanny's hang; a nanny that stands still pets no more."""
    with notify_listener() as systemd:
        node.start(
            "import time; time.sleep(600)",
            "--heartbeat=none",
            environ={"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "400000"},
        )
        status = node.wait_for_phase("running")
        os.kill(status["worker"]["pid"], signal.SIGSTOP)
        assert pets_within(systemd, 1.5) >= 3
        node.send(signal.SIGSTOP)
        wait_until(lambda: _state(node.pid) == "T", 10, "the nanny to stand still")
        assert pets_within(systemd, 1.0) == 0
        node.send(signal.SIGCONT)
        assert pets_within(systemd, 1.5) >= 3
        os.kill(status["worker"]["pid"], signal.SIGCONT)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
