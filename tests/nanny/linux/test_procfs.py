"""What /proc says of real processes: names that try to confuse the reader, zombies, stopped and gone ones."""

import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nanny.errors import HostError
from nanny.linux import procfs
from tests.support.processes import spawn_python, wait_until

RENAMED = (
    "import ctypes, sys, time; b = ctypes.create_string_buffer(eval(sys.argv[1]));"
    "ctypes.CDLL(None).prctl(15, b, 0, 0, 0); print('ready', flush=True); time.sleep(60)"
)


@pytest.mark.parametrize(
    ("comm", "shown"),
    [
        (b"plain", "plain"),
        (b"a) R 1 (b", "a) R 1 (b"),
        (b") S 1 2 3 (", ") S 1 2 3 ("),
        (b"with space", "with space"),
        (b"\xff\xfe", "\\xff\\xfe"),
    ],
)
def test_a_hostile_name_does_not_shift_the_fields_of_stat(
    leaves_nothing_behind: None, comm: bytes, shown: str
) -> None:
    with spawn_python(RENAMED, argv=(repr(comm),)) as child:
        child.read_line()
        stat = procfs.read_stat(child.pid)
        assert (stat.pid, stat.comm, stat.ppid, stat.threads) == (child.pid, shown, os.getpid(), 1)


def test_start_times_order_processes_and_do_not_change() -> None:
    own = procfs.read_stat(os.getpid())
    with spawn_python("import time; time.sleep(60)") as child:
        first = procfs.read_stat(child.pid)
        assert first.start_time_ticks >= own.start_time_ticks > 0
        assert procfs.read_stat(child.pid).start_time_ticks == first.start_time_ticks


def test_cpu_time_of_a_spinning_process_grows() -> None:
    with spawn_python("while True: pass") as child:
        wait_until(lambda: procfs.read_stat(child.pid).utime_ticks >= 2, 20, "two ticks of user time")


def test_a_stopped_process_is_in_state_t() -> None:
    with spawn_python("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)") as child:
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        assert procfs.read_stat(child.pid).state == "T"


def test_a_zombie_can_still_be_read_and_holds_no_memory() -> None:
    with spawn_python("pass") as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert procfs.read_stat(child.pid).state == "Z"
        assert procfs.read_status(child.pid).vm_rss_bytes == 0


def test_status_agrees_with_what_is_known_of_a_process() -> None:
    # Not this process: a library may have threads in it that Python knows nothing of.
    code = (
        "import sys, threading\n"
        "for _ in range(2): threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    with spawn_python(code) as child:
        assert child.read_line() == "ready"
        status = procfs.read_status(child.pid)
    assert (status.uid, status.tracer_pid, status.threads) == (os.geteuid(), 0, 3)
    assert status.vm_rss_bytes > 1_000_000


def test_the_mask_of_caught_signals_shows_who_has_a_handler() -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGUSR1, lambda *_: None);"
        "print('ready', flush=True); time.sleep(60)"
    )
    with spawn_python(code) as child:
        child.read_line()
        caught = procfs.read_status(child.pid).signals_caught
        assert procfs.has_signal(caught, signal.SIGUSR1) is True
        assert procfs.has_signal(caught, signal.SIGUSR2) is False


def test_a_signal_to_a_stopped_process_is_seen_pending() -> None:
    with spawn_python("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)") as child:
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        child.send_signal(signal.SIGABRT)
        status = procfs.read_status(child.pid)
        assert procfs.has_signal(status.shared_pending, signal.SIGABRT) is True
        assert status.signals_pending == 0


def test_the_run_time_of_a_spinning_thread_grows_and_waiting_is_counted() -> None:
    with spawn_python("while True: pass") as child:
        wait_until(lambda: procfs.read_schedstat(child.pid, child.pid).run_s > 0.02, 20, "20 ms of run time")
        assert procfs.read_schedstat(child.pid, child.pid).wait_s >= 0.0


def test_wchan_is_empty_for_a_running_thread_and_a_symbol_for_a_sleeping_one() -> None:
    with spawn_python("import sys; sys.stdin.read()") as sleeper:
        wait_until(lambda: procfs.read_wchan(sleeper.pid), 10, "the sleeper to sleep")
        assert procfs.read_wchan(sleeper.pid) == procfs.read_wchan(sleeper.pid, sleeper.pid)
        assert re.fullmatch(r"[a-z_0-9.]+", procfs.read_wchan(sleeper.pid))
    assert procfs.read_wchan(os.getpid()) == ""


def test_all_threads_are_listed() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        assert set(procfs.list_threads(os.getpid())) >= {os.getpid(), thread.native_id}
    finally:
        release.set()
        thread.join()


def test_the_boot_id_is_that_of_this_boot() -> None:
    assert procfs.boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", procfs.boot_id())


@pytest.mark.parametrize(
    "read",
    [
        procfs.read_stat,
        procfs.read_status,
        lambda pid: procfs.read_schedstat(pid, pid),
        procfs.read_wchan,
        procfs.list_threads,
    ],
    ids=["stat", "status", "schedstat", "wchan", "threads"],
)
def test_every_reader_says_when_the_process_is_gone(read: Callable[[int], object]) -> None:
    with spawn_python("pass") as child:
        child.wait_for_exit()
        with pytest.raises(ProcessLookupError):
            read(child.pid)


def test_a_thread_that_is_gone_is_told_from_its_living_process() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert thread.native_id is not None
    tid = thread.native_id
    wait_until(lambda: tid not in procfs.list_threads(os.getpid()), 10, "the thread to go")
    with pytest.raises(ProcessLookupError):
        procfs.read_wchan(os.getpid(), tid)


def test_a_file_that_this_kernel_lacks_is_not_taken_for_a_dead_process(tmp_path: Path) -> None:
    (tmp_path / "7" / "task" / "7").mkdir(parents=True)
    with pytest.raises(HostError, match="verdicts go without it"):
        procfs.read_schedstat(7, 7, proc=str(tmp_path))


@pytest.mark.parametrize("content", ["", "7", "7 (x", "7 (x) S 1 2", "7 (x) S " + "y " * 50])
def test_a_stat_line_that_makes_no_sense_is_a_host_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text(content)
    with pytest.raises(HostError, match="understand"):
        procfs.read_stat(7, proc=str(tmp_path))


@pytest.mark.parametrize("content", ["", "1 2", "1 x 2", "9" * 400 + " 1 1", "9" * 5000 + " 1 1"])
def test_an_account_of_scheduling_that_makes_no_sense_is_a_host_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "7" / "task" / "7").mkdir(parents=True)
    (tmp_path / "7" / "task" / "7" / "schedstat").write_text(content)
    with pytest.raises(HostError, match="understand"):
        procfs.read_schedstat(7, 7, proc=str(tmp_path))


def test_a_status_with_thousands_of_groups_is_read_to_its_end(tmp_path: Path) -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    groups = "Groups:\t" + " ".join(str(group) for group in range(60_000))
    swollen = [groups if line.startswith("Groups:") else line for line in lines]
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "status").write_text("\n".join(swollen))
    assert procfs.read_status(7, proc=str(tmp_path)).threads >= 1
