"""Seven troubles that can come two at a time, each with a beginning, what the node does about it itself, and an end.

They are done to a `Ground`: a node with a disk of its own, a light worker, and a link that dials a server through a
front. A trouble from outside (server, disk, starvation) lasts until ``ends``; one that the node heals by itself ends
when it has, whatever else is the matter meanwhile.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar

from nanny.protocol.messages import NannyReport
from tests.faults import fault_makers as make
from tests.faults.fault_node import send
from tests.faults.hostile_servers import front
from tests.faults.own_cgroups import own_cgroup, why_no_controller
from tests.support.link_server import link_server
from tests.support.loop_disk import loop_disk, why_no_loop_disk
from tests.support.real_nanny import BEATS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.fault_node import FaultNode
    from tests.faults.hostile_servers import Front
    from tests.faults.own_cgroups import OwnCgroup
    from tests.support.link_server import LinkServer
    from tests.support.loop_disk import LoopDisk

STARVED_SHARE = 0.15
"""Of one core, for nanny, worker, link and their helpers together."""

RESCUE_S = 60.0


class Ground:
    """What troubles are done to."""

    def __init__(self, node: FaultNode, disk: LoopDisk, server: LinkServer, broken: Front) -> None:
        self.node = node
        self.disk = disk
        self.server = server
        self.front = broken
        self.starved: OwnCgroup | None = None
        link = {"LINK_BACKOFF_BASE_S": "0.05", "LINK_BACKOFF_CEILING_S": "0.3", "LINK_SERVER_URL": broken.url}
        self.flags = ("--link=child", f"--link-environment={json.dumps(link)}")

    def begin(self) -> dict[str, Any]:
        """Start the nanny and wait until worker and link are there and the server has heard so."""
        self.node.begin(BEATS, *self.flags, link_command=None)
        self.server.expect(NannyReport, lambda report: report.phase == "running")
        return self.node.wait_for(lambda status: status["link"]["stage"] == "ready", "link")

    def heard_running(self, incarnation: str) -> None:
        """Wait for a report of this incarnation, running."""
        self.server.expect(
            NannyReport, lambda report: report.phase == "running" and str(report.incarnation) == incarnation
        )


@contextmanager
def ground(node: FaultNode) -> Iterator[Ground]:
    """A node on a small disk, with a server, for the length of the block."""
    with loop_disk(node.state_dir) as disk, link_server() as server, front(server.port) as broken:
        made = Ground(node, disk, server, broken)
        try:
            yield made
            node.stop()
        finally:
            disk.thaw()
            node.end_everything()


class Trouble:
    """One trouble, done to one ground.

    Attributes:
        name: in words.
        replaces_worker: the node ends it by a new worker, and has to while other troubles last.
    """

    name: ClassVar[str]
    replaces_worker: ClassVar[bool] = False

    def __init__(self, where: Ground) -> None:
        self.ground = where
        self.before = where.node.status()

    def begins(self) -> None:
        """Do it."""
        raise NotImplementedError

    def is_overcome(self) -> None:
        """Wait for what the node does about it by itself, if it can."""

    def ends(self) -> None:
        """Take the outer cause away."""

    @staticmethod
    def why_not() -> str | None:
        """Why it can't be done here."""
        return None


class WorkerHangs(Trouble):
    """SIGSTOP of the worker: lost, replaced."""

    name = "worker hang"
    replaces_worker = True

    def begins(self) -> None:
        make.stop(self.before["worker"]["pid"])

    def is_overcome(self) -> None:
        self.ground.node.wait_for_next(self.before)


class LinkHangs(Trouble):
    """SIGSTOP of link: lost, replaced, the worker untouched."""

    name = "link hang"

    def begins(self) -> None:
        with suppress(ProcessLookupError):  # a nanny's successor has ended it already
            send(self.before["link"]["pid"], signal.SIGSTOP)

    def is_overcome(self) -> None:
        old = self.before["link"]["pid"]
        self.ground.node.wait_for(
            lambda status: status["link"]["stage"] == "ready" and status["link"]["pid"] != old, "another link"
        )


class ServerGone(Trouble):
    """Connections are dropped and refused."""

    name = "server gone"

    def begins(self) -> None:
        self.ground.front.set("down")

    def ends(self) -> None:
        self.ground.front.set("through")


class DiskFull(Trouble):
    """Not a byte is left in the state directory."""

    name = "disk full"

    def begins(self) -> None:
        with open(self._filler, "wb", buffering=0) as file:
            for size in (1 << 16, 512):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def ends(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._filler)

    @property
    def _filler(self) -> str:
        return str(self.ground.disk.path / "filler")


class DiskHung(Trouble):
    """Whoever writes to the state directory sleeps uninterruptibly."""

    name = "disk hung"

    def __init__(self, where: Ground) -> None:
        super().__init__(where)
        # Should the test itself ever touch the frozen disk, it would hang past every time-out of its own.
        self._rescue = threading.Timer(RESCUE_S, where.disk.thaw)
        self._rescue.daemon = True

    def begins(self) -> None:
        self.ground.disk.freeze()
        self._rescue.start()

    def ends(self) -> None:
        self._rescue.cancel()
        self.ground.disk.thaw()
        if self._rescue.is_alive():
            self._rescue.join()


class NannyKilled(Trouble):
    """SIGKILL of the nanny; the next one is started at once, as systemd does."""

    name = "nanny killed"

    def begins(self) -> None:
        self.ground.node.again(BEATS, *self.ground.flags, link_command=None)

    def is_overcome(self) -> None:
        self.ground.node.wait_for(
            lambda status: status["nanny"]["pid"] == self.ground.node.pid and status["phase"] == "running",
            "the next nanny to have its worker",
        )


class Starvation(Trouble):
    """All of the node together gets a fraction of a core."""

    name = "starvation"

    def __init__(self, where: Ground) -> None:
        super().__init__(where)
        self._stack = ExitStack()

    def begins(self) -> None:
        group = self._stack.enter_context(own_cgroup("cpu"))
        group.add_node(self.ground.node)
        group.limit_cpu(STARVED_SHARE)

    def ends(self) -> None:
        self._stack.close()

    @staticmethod
    def why_not() -> str | None:
        return why_no_controller("cpu")


TROUBLES: tuple[type[Trouble], ...] = (
    WorkerHangs,
    LinkHangs,
    ServerGone,
    DiskFull,
    DiskHung,
    NannyKilled,
    Starvation,
)


def why_no_ground() -> str | None:
    """Why no pair can be tried here."""
    return why_no_loop_disk()
