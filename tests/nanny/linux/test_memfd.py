"""Memory files: bounded by the kernel, readable while the writer goes on."""

import errno
import faulthandler
import os

import pytest

from nanny.errors import HostError
from nanny.linux.memfd import create_memfd, read_all
from tests.support.processes import spawn_python


def test_what_was_written_is_read_back(leaves_nothing_behind: None) -> None:
    fd = create_memfd("test", 4096, inheritable=False)
    os.write(fd, b"stack of thread 1\n")
    assert read_all(fd, 4096) == b"stack of thread 1\n"
    os.close(fd)


def test_reading_does_not_disturb_the_writer(leaves_nothing_behind: None) -> None:
    fd = create_memfd("test", 4096, inheritable=False)
    os.write(fd, b"one ")
    read_all(fd, 4096)
    os.write(fd, b"two")
    assert read_all(fd, 4096) == b"one two"
    os.close(fd)


def test_the_reader_takes_no_more_than_its_limit(leaves_nothing_behind: None) -> None:
    fd = create_memfd("test", None, inheritable=False)
    os.write(fd, b"x" * 200_000)
    assert read_all(fd, 100_000) == b"x" * 100_000
    assert read_all(fd, 1_000_000) == b"x" * 200_000
    assert read_all(fd, 0) == b""
    os.close(fd)


def test_a_bounded_file_refuses_what_goes_beyond_and_cannot_be_enlarged(leaves_nothing_behind: None) -> None:
    fd = create_memfd("test", 8192, inheritable=False)
    assert [os.write(fd, b"x" * 5000) for _ in range(2)] == [5000, 3192]
    with pytest.raises(OSError) as refused:
        os.write(fd, b"x")
    assert refused.value.errno == errno.EPERM
    for size in (0, 10_000):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    assert read_all(fd, 100_000) == b"x" * 8192
    os.close(fd)


def test_an_unwritten_bounded_file_is_empty_and_costs_no_memory(leaves_nothing_behind: None) -> None:
    fd = create_memfd("test", 1_048_576, inheritable=False)
    assert read_all(fd, 1_048_576) == b""
    assert os.fstat(fd).st_blocks == 0
    os.close(fd)


@pytest.mark.parametrize("inheritable", [True, False])
def test_it_is_inherited_only_by_choice(leaves_nothing_behind: None, inheritable: bool) -> None:
    fd = create_memfd("test", None, inheritable=inheritable)
    assert os.get_inheritable(fd) is inheritable
    os.close(fd)


def test_stacks_dumped_by_another_process_are_read_here(leaves_nothing_behind: None) -> None:
    fd = create_memfd("stacks", 65_536, inheritable=False)
    code = """
import faulthandler, sys
def deep_in_the_worker(): faulthandler.dump_traceback(int(sys.argv[1]), all_threads=True)
deep_in_the_worker()
"""
    with spawn_python(code, argv=(str(fd),), pass_fds=[fd]) as child:
        assert child.wait_for_exit() == 0
    assert b"in deep_in_the_worker\n" in read_all(fd, 65_536)
    os.close(fd)


def test_faulthandler_survives_a_file_that_is_too_small(leaves_nothing_behind: None) -> None:
    fd = create_memfd("stacks", 16, inheritable=False)
    faulthandler.dump_traceback(fd, all_threads=True)
    assert len(read_all(fd, 65_536)) <= 16
    os.close(fd)


def test_a_descriptor_that_is_closed_is_a_host_error() -> None:
    with pytest.raises(HostError, match="captured stacks are lost"):
        read_all(9999, 10)


def test_an_impossible_size_is_a_host_error_and_leaks_nothing(leaves_nothing_behind: None) -> None:
    with pytest.raises(HostError, match="stacks cannot be captured"):
        create_memfd("test", -1, inheritable=False)
