"""A node in a box, installed as a package would: units, users, directories and settings from `packaging/`.

The control server runs in the same box as a unit of the test's. Settings are the packaged file with what the test
wants on top; `QUICK` has short times, so that nobody waits. What is asked of a node is asked by `inside/look.py`.
"""

from __future__ import annotations

import json
import tomllib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.support import dead_mount
from tests.systemd.installation import CHECKOUT, PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.systemd.box import Box

SERVER = "http://127.0.0.1:8470"
HEALTHZ = "http://127.0.0.1:7080/healthz"
FAULT_SOCKET = "/run/nodenanny/faults.sock"
QUICK: dict[str, dict[str, Any]] = {
    "nanny": {
        "host": "127.0.0.1",
        "heartbeat_interval_s": 0.5,
        "heartbeat_timeout_s": 4.0,
        "stall_warn_s": 2.0,
        "stall_timeout_s": 5.0,
        "stop_grace_s": 10.0,
        "backoff_initial_s": 0.1,
        "backoff_ceiling_s": 0.5,
        "crash_loop_after": 1000,
        "server_restarts_per_hour": 1000,
    },
    "agent": {
        "host": "127.0.0.1",
        "fault_injection": True,
        "fault_socket": FAULT_SOCKET,
        "reconnect_ceiling_s": 1.0,
    },
    "link": {"backoff_ceiling_s": 1.0},
}
_DROP_INS = "/run/systemd/system/{unit}.service.d/test.conf"
_SERVER_UNIT = f"""\
[Unit]
Description=the control server
[Service]
ExecStart={PREFIX}/bin/server-stub --host 127.0.0.1 --port 8470 --data-dir /var/lib/server-stub --probe-interval-s 1
DynamicUser=yes
StateDirectory=server-stub
[Install]
WantedBy=multi-user.target
"""
_BOX_DROP_IN = """\
[Service]
# A box's boot id is a mount of its own, which ProtectKernelTunables= hides behind the machine's.
BindReadOnlyPaths=/proc/sys/kernel/random/boot_id
"""
_INSTALL = """\
install -D -m 0644 -t /usr/lib/systemd/system /src/packaging/systemd/*.service
install -D -m 0644 -t /usr/lib/sysusers.d /src/packaging/sysusers.d/nodenanny.conf
install -D -m 0644 -t /usr/lib/tmpfiles.d /src/packaging/tmpfiles.d/nodenanny.conf
install -D -m 0644 -t /etc/nodenanny /src/packaging/nodenanny.toml
systemd-sysusers
systemd-tmpfiles --create nodenanny.conf
systemctl daemon-reload
systemctl --quiet enable server-stub nodenanny nodenanny-link
"""


def binds(prefix: Path) -> dict[Path, str]:
    """What a box of a node needs from outside."""
    return {
        prefix: PREFIX,
        CHECKOUT / "packaging": "/src/packaging",
        CHECKOUT / "tests/systemd/inside": "/src/inside",
    }


class Node:
    """One node.

    Attributes:
        box: the machine it is on.
    """

    def __init__(self, box: Box) -> None:
        self.box = box

    # Installation and settings

    def install(self) -> None:
        """Lay the package out and enable its units; nothing is started."""
        self.box.write("/etc/systemd/system/server-stub.service", _SERVER_UNIT)
        self.box.write("/etc/systemd/system/nodenanny.service.d/box.conf", _BOX_DROP_IN)
        self.box.sh(_INSTALL)
        self.configure()
        # A power loss is to find the node installed.
        self.box.run("sync", "-f", "/")

    def configure(self, more: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Write the settings: those of the package, for our server, and `more` by table and key."""
        tables: dict[str, dict[str, Any]] = tomllib.loads((CHECKOUT / "packaging/nodenanny.toml").read_text())
        tables["agent"]["server_url"] = tables["link"]["server_url"] = SERVER
        for table, entries in (more or {}).items():
            tables[table] |= entries
        lines = [
            line
            for table, entries in tables.items()
            for line in (f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in entries.items()))
        ]
        self.box.write("/etc/nodenanny/nodenanny.toml", "\n".join(lines) + "\n")

    def start(self) -> None:
        """Start everything, and wait until the server calls the node READY."""
        self.box.run("systemctl", "start", "server-stub", "nodenanny", "nodenanny-link")
        self.wait_until_ready()

    @contextmanager
    def drop_in(self, text: str, unit: str = "nodenanny") -> Iterator[None]:
        """Add to the [Service] section of a unit for a while; it counts from the unit's next start on."""
        path = _DROP_INS.format(unit=unit)
        self.box.write(path, f"[Service]\n{text}\n")
        self.box.run("systemctl", "daemon-reload")
        try:
            yield
        finally:
            self.box.run("rm", "-f", path)
            self.box.run("systemctl", "daemon-reload")

    # Asking

    def look(self) -> dict[str, Any]:
        """Units, the nanny's status, the server's nodes (`inside/look.py`)."""
        told: dict[str, Any] = json.loads(self.box.run("python3", "/src/inside/look.py"))
        return told

    def unit(self, name: str = "nodenanny") -> dict[str, str]:
        """What systemd says of a unit of ours."""
        told: dict[str, str] = self.look()["units"][name]
        return told

    def status(self) -> dict[str, Any]:
        """What the nanny says; it must answer."""
        told = self.look()["nanny"]
        assert told is not None, self.box.journal("nodenanny")[-4000:]
        return dict(told)

    def wait_for(
        self, holds: Callable[[dict[str, Any]], object], what: str, unit: str = "nodenanny"
    ) -> dict[str, Any]:
        """Wait until what `look` gives is as described; give it."""
        last: dict[str, Any] = {}

        def looked() -> bool:
            nonlocal last
            last = self.look()
            return bool(holds(last))

        try:
            self.box.wait_until(looked, what, unit=unit)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(last)[-4000:]}") from None
        return last

    def wait_until_in_phase(self, phase: str) -> dict[str, Any]:
        """Wait until the nanny is in a phase; what `look` gives then."""
        return self.wait_for(
            lambda told: told["nanny"] is not None and told["nanny"]["phase"] == phase, f"phase {phase}"
        )

    def wait_until_running(self, *, after: str | None = None) -> dict[str, Any]:
        """Wait for a running worker, of another incarnation than `after`; what `look` gives then."""
        return self.wait_for(
            lambda told: is_running(told) and told["nanny"]["incarnation"] != after, "a running worker"
        )

    def wait_until_ready(self, *, after: str | None = None) -> dict[str, Any]:
        """Wait until nanny, link and server agree that the node is ready; what `look` gives then."""
        return self.wait_for(
            lambda told: (
                is_running(told)
                and told["nanny"]["incarnation"] != after
                and told["units"]["nodenanny-link"]["ActiveState"] == "active"
                and is_ready_at_server(told)
            ),
            "READY at the server",
        )

    # Acting

    def nannyctl(self, *words: str) -> dict[str, Any]:
        """Give an order; its outcome, which must be good."""
        told: dict[str, Any] = json.loads(self.box.run(f"{PREFIX}/bin/nannyctl", "--json", *words) or "{}")
        return told

    def signal(self, name: str, *pids: int | str) -> None:
        """Signal processes of the box, as root there."""
        self.box.run("kill", "-s", name, *map(str, pids))

    def inject(self, order: str) -> None:
        """Break the agent (`agent/fault_injection.py`)."""
        script = "import socket,sys; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(sys.argv[1].encode(), sys.argv[2])"
        self.box.run("python3", "-c", script, order, FAULT_SOCKET)

    def is_alive(self, pid: int | str) -> bool:
        """Whether a process of the box is there and no zombie."""
        return self.box.ask("sh", "-c", f'grep -q "^State:.[^ZX]" /proc/{pid}/status').status == 0

    def heal(self) -> None:
        """Bring the node back to quick settings, up and READY, whatever a test has done to it."""
        self.box.sh("rm -rf /run/systemd/system/nodenanny*.d; systemctl daemon-reload")
        before = self.box.run("cat", "/etc/nodenanny/nodenanny.toml")
        self.configure(QUICK)
        is_changed = before != self.box.run("cat", "/etc/nodenanny/nodenanny.toml")
        told = self.look()
        is_whole = is_running(told) and told["units"]["nodenanny"]["NFileDescriptorStore"] == "1"
        if is_changed or not is_whole or told["nanny"]["conditions"]:
            self.box.sh("systemctl stop nodenanny nodenanny-link; systemctl reset-failed")
            self.box.run("systemctl", "start", "server-stub", "nodenanny")
            if self.status()["desired"]["value"] == "down":
                self.nannyctl("start", "--reason", "the next test")
        self.start()

    @contextmanager
    def dead_file_system(self, path: str) -> Iterator[None]:
        """Mount a file system that never answers (`tests/support/dead_mount.py`); at the end its waiters are freed."""
        self.box.sh("[ -e /dev/fuse ] || mknod /dev/fuse c 10 229")
        self.box.write("/run/dead_mount.py", dead_mount.SERVER)
        self.box.run(
            "systemd-run", "--quiet", "--collect", "--unit=dead", "python3", "/run/dead_mount.py", path
        )
        try:
            self.box.wait_until(
                lambda: path in self.box.run("cat", "/proc/self/mountinfo"), "the mount", unit="dead"
            )
            yield
        finally:
            self.box.sh(f"systemctl kill --signal=KILL dead || true; umount --lazy {path}")

    # /healthz

    @contextmanager
    def probed(self) -> Iterator[list[dict[str, Any]]]:
        """Ask /healthz without a pause; the list is filled with the answers at the end of the block."""
        answers: list[dict[str, Any]] = []
        prober = ("python3", "/src/inside/prober.py", HEALTHZ, "/run/prober.jsonl")
        self.box.run("systemd-run", "--quiet", "--collect", "--unit=prober", *prober)
        self.box.wait_until(self._answers, "the first answer of /healthz")
        try:
            yield answers
            seen = len(self._answers())
            self.box.wait_until(lambda: len(self._answers()) > seen + 3, "a last answer of /healthz")
        finally:
            self.box.run("systemctl", "stop", "prober")
        answers += self._answers()

    def _answers(self) -> list[dict[str, Any]]:
        text = self.box.ask("cat", "/run/prober.jsonl").out
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def is_running(told: dict[str, Any]) -> bool:
    """Whether systemd and the nanny call it running, worker included."""
    nanny = told["nanny"]
    return (
        told["units"]["nodenanny"]["ActiveState"] == "active"
        and nanny is not None
        and nanny["phase"] == "running"
        and bool(nanny["worker"])
    )


def is_ready_at_server(told: dict[str, Any]) -> bool:
    """Whether the server calls the one node that it knows READY, at the nanny's incarnation."""
    nodes = told["server"] or []
    return (
        [node["state"] for node in nodes] == ["READY"]
        and nodes[0]["incarnation"] == told["nanny"]["incarnation"]
        and (nodes[0]["connections"]["link"] or {}).get("is_open", False)
    )


def wanted_of(status: dict[str, Any]) -> tuple[str, str, str]:
    """What is wanted, by whom and why; not since when, which goes on."""
    desired = status["desired"]
    return desired["value"], desired["by"], desired["reason"]


def order_of(status: dict[str, Any]) -> tuple[str, int]:
    """The incarnation of a nanny's status, to be compared: epochs are minted in order, numbers count up."""
    epoch, _, number = status["incarnation"].rpartition("/")
    return epoch, int(number)


def assert_always_answered(answers: list[dict[str, Any]], *, cut_short: int = 0) -> None:
    """Assert that no connection to /healthz was refused, reset or left without an answer.

    Args:
        answers: as `Node.probed` gives them.
        cut_short: how many may have been reset: those that a worker had accepted when it was killed or stopped.
    """
    assert len(answers) > 3
    without = [one["error"] for one in answers if one.get("status") not in {200, 503}]
    assert [error for error in without if "refused" in error] == []
    assert len(without) <= cut_short, without


def says_what_the_nanny_says(told: dict[str, Any]) -> bool:
    """Whether systemd's word for the service is the nanny's own."""
    nanny = told["nanny"]
    said = told["units"]["nodenanny"]["StatusText"]
    return nanny is not None and said == f"{nanny['phase']}, incarnation {nanny['incarnation']}"
