"""A full /run and a nanny without descriptors: logged, survived, and mended when there is room again."""

import os
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support.processes import wait_until
from tests.support.real_nanny import BEATS, RealNanny

pytestmark = pytest.mark.root


@pytest.fixture
def small_run(node: RealNanny) -> Iterator[RealNanny]:
    node.runtime_dir.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(node.runtime_dir)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("tmpfs can't be mounted here")
    yield node
    node.end_everything()
    subprocess.run(["umount", str(node.runtime_dir)], check=True, capture_output=True)


def test_facts_that_can_not_be_written_are_logged_and_nothing_else_suffers(small_run: RealNanny) -> None:
    node = small_run
    node.start()
    before = node.wait_for_phase("running")
    filler = os.open(node.runtime_dir / "filler", os.O_WRONLY | os.O_CREAT)
    try:
        with suppress(OSError):
            while True:
                os.write(filler, b"x" * 4096)
    finally:
        os.close(filler)
    assert node.order("restart")["outcome"] == "done"
    after = node.wait_for_next(before)
    assert "facts for adoption could not be written" in node.log()
    node.kill()
    # The journal knows all that the facts would have said.
    node.start()
    again = node.wait_for_phase("running")
    assert again["worker"]["pid"] == after["worker"]["pid"]
    (node.runtime_dir / "filler").unlink()
    node.log_path.write_text("")
    assert node.order("restart")["outcome"] == "done"
    assert "could not be written" not in node.log()
    node.assert_unharmed()


def test_without_a_free_descriptor_the_nanny_lives_and_recovers(node: RealNanny) -> None:
    node.start(BEATS, "--port=0")
    before = node.wait_for_phase("running")
    soft, hard = resource.prlimit(node.pid, resource.RLIMIT_NOFILE)
    used = len(os.listdir(f"/proc/{node.pid}/fd"))
    resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (used, hard))
    clients: list[socket.socket] = []
    try:
        for _ in range(20):
            clients.append(socket.socket(socket.AF_UNIX))
            clients[-1].connect(node.control_path)
        os.kill(before["worker"]["pid"], signal.SIGKILL)
        wait_until(lambda: "not accepted" in node.log(), 10, "the nanny to meet its limit")
        assert not node.has_ended()
    finally:
        for client in clients:
            client.close()
        resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (soft, hard))
    after = node.wait_for_next(before)
    assert after["worker"]["pid"] != before["worker"]["pid"]
