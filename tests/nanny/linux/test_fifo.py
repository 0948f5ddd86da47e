"""The worker's output FIFO: made safely, never waits for us, survives us."""

import fcntl
import os
import select
import signal
from pathlib import Path

import pytest

from nanny.errors import HostError
from nanny.linux.fifo import open_output_fifo
from tests.support.processes import spawn_python

CAPACITY = 65_536 * 2


def test_it_is_made_for_its_owner_alone(leaves_nothing_behind: None, tmp_path: Path) -> None:
    path = tmp_path / "out"
    fifo = open_output_fifo(str(path), CAPACITY)
    assert path.is_fifo()
    assert path.stat().st_mode & 0o777 == 0o600
    fifo.close()
    assert path.is_fifo()


def test_our_side_never_waits_and_the_childs_side_does(leaves_nothing_behind: None, tmp_path: Path) -> None:
    fifo = open_output_fifo(str(tmp_path / "out"), CAPACITY)
    assert os.get_blocking(fifo.read_fd) is False
    assert os.get_blocking(fifo.write_fd) is True
    with pytest.raises(BlockingIOError):
        os.read(fifo.read_fd, 1)
    assert [os.get_inheritable(fd) for fd in (fifo.read_fd, fifo.write_fd)] == [False, False]
    fifo.close()


def test_without_any_writer_our_side_is_empty_and_not_at_its_end(
    leaves_nothing_behind: None, tmp_path: Path
) -> None:
    # At end of file it would be readable for ever, and the loop would spin between two workers.
    fifo = open_output_fifo(str(tmp_path / "out"), CAPACITY)
    os.close(fifo.write_fd)
    assert select.select([fifo.read_fd], [], [], 0)[0] == []
    os.close(fifo.read_fd)


def test_a_childs_output_is_read(leaves_nothing_behind: None, tmp_path: Path) -> None:
    fifo = open_output_fifo(str(tmp_path / "out"), CAPACITY)
    with spawn_python("print('hello')", stdout=fifo.write_fd) as child:
        assert child.wait_for_exit() == 0
    assert os.read(fifo.read_fd, 100) == b"hello\n"
    fifo.close()


def test_a_writer_survives_its_reader_and_the_next_reader_finds_the_backlog(
    leaves_nothing_behind: None, tmp_path: Path
) -> None:
    path = str(tmp_path / "out")
    fifo = open_output_fifo(path, CAPACITY)
    code = "import sys\nfor line in sys.stdin: print(line, end='', flush=True); print(end='w', file=sys.stderr, flush=True)"
    with spawn_python(code, stdout=fifo.write_fd, stderr=-1, bufsize=0) as child:
        assert child.popen.stdin is not None
        assert child.popen.stderr is not None
        child.popen.stdin.write(b"before\n")
        assert child.popen.stderr.read(1) == b"w"
        fifo.close()
        child.popen.stdin.write(b"orphaned\n")
        assert child.popen.stderr.read(1) == b"w"  # no SIGPIPE
        successor = open_output_fifo(path, CAPACITY)
        assert os.read(successor.read_fd, 100) == b"before\norphaned\n"
        successor.close()


def test_a_full_fifo_holds_the_writer_and_a_read_lets_it_go_on(
    leaves_nothing_behind: None, tmp_path: Path
) -> None:
    fifo = open_output_fifo(str(tmp_path / "out"), CAPACITY)
    total = fifo.capacity_bytes + 100_000
    with spawn_python(f"import os; os.write(1, b'x' * {total})", stdout=fifo.write_fd) as child:
        read = 0
        while read < total:
            assert select.select([fifo.read_fd], [], [], 20)[0]
            read += len(os.read(fifo.read_fd, 65_536))
        assert child.wait_for_exit() == 0
    fifo.close()


def test_the_capacity_is_what_was_asked_for(leaves_nothing_behind: None, tmp_path: Path) -> None:
    fifo = open_output_fifo(str(tmp_path / "out"), CAPACITY)
    assert fifo.capacity_bytes == CAPACITY == fcntl.fcntl(fifo.write_fd, fcntl.F_GETPIPE_SZ)
    fifo.close()


def test_a_smaller_wish_never_shrinks_it(leaves_nothing_behind: None, tmp_path: Path) -> None:
    fifo = open_output_fifo(str(tmp_path / "out"), 1)
    assert fifo.capacity_bytes >= 4096
    fifo.close()


@pytest.mark.root
def test_an_unprivileged_user_gets_what_the_kernel_grants(
    leaves_nothing_behind: None,
) -> None:
    code = """
import os, tempfile
from nanny.linux.fifo import open_output_fifo
os.setgid(65534); os.setuid(65534)
with tempfile.TemporaryDirectory(dir="/tmp") as directory:
    fifo = open_output_fifo(directory + "/out", 1 << 40)
    maximum = int(open("/proc/sys/fs/pipe-max-size").read())
    print(maximum // 2 < fifo.capacity_bytes <= maximum, flush=True)
"""
    with spawn_python(code) as child:
        assert child.read_line() == "True"


@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling"])
def test_something_else_in_its_place_is_refused_and_left_alone(
    leaves_nothing_behind: None, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "out"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "target")
        if kind == "link":
            os.mkfifo(tmp_path / "target")
    before = os.lstat(path)
    with pytest.raises(HostError, match="the worker's output cannot be captured"):
        open_output_fifo(str(path), CAPACITY)
    after = os.lstat(path)
    assert (after.st_ino, after.st_mode, after.st_size) == (before.st_ino, before.st_mode, before.st_size)


def test_a_missing_directory_is_a_host_error(leaves_nothing_behind: None, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="No such file"):
        open_output_fifo(str(tmp_path / "missing" / "out"), CAPACITY)


def test_a_writer_killed_with_a_full_fifo_dies_at_once(leaves_nothing_behind: None, tmp_path: Path) -> None:
    fifo = open_output_fifo(str(tmp_path / "out"), CAPACITY)
    with spawn_python(
        f"import os; os.write(1, b'x' * {fifo.capacity_bytes * 4})", stdout=fifo.write_fd
    ) as child:
        assert select.select([fifo.read_fd], [], [], 20)[0]
        child.send_signal(signal.SIGKILL)
        assert child.wait_for_exit() == -signal.SIGKILL
    fifo.close()
