"""The gate with real children: parked, released, abandoned, failed, orphaned."""

import errno
import fcntl
import gc
import os
import pwd
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from nanny.errors import HostError
from nanny.fork_gate import (
    ChildSpec,
    ExecFailed,
    ExecProgress,
    Helper,
    ParkedChild,
    abandon,
    fork_helper,
    park,
    read_exec_error,
    release,
)
from nanny.linux import procfs
from nanny.linux.cgroup import SubCgroup, own_cgroup_dir
from nanny.linux.signals import SignalDoor
from tests.support.processes import spawn_python, wait_until

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")

ENVIRON = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
SHELL = "/bin/sh"


def wait_for_exit(child: ParkedChild | Helper, timeout_s: float = 10.0) -> int:
    """Reap; give the exit code, or minus the signal."""
    assert select.select([child.pidfd], [], [], timeout_s)[0], "the child still lives"
    result = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
    assert result is not None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def close_ours(child: ParkedChild) -> None:
    os.close(child.pidfd)
    os.close(child.exec_error_fd)


@contextmanager
def parked(spec: ChildSpec) -> Iterator[ParkedChild]:
    """Park a child and see to it that it is gone and reaped in the end."""
    child = park(spec)
    try:
        yield child
    finally:
        with suppress(ProcessLookupError, ChildProcessError):
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
        close_ours(child)


def answer_of(spec: ChildSpec) -> str:
    """Give what the released program writes to its descriptor 1."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    described = ChildSpec(
        **{name: getattr(spec, name) for name in spec.__slots__}
        | {"descriptors": (*spec.descriptors, (write_fd, 1))}
    )
    with open(read_fd, "rb") as out, parked(described) as child:
        os.close(write_fd)
        release(child)
        text = out.read().decode()
        assert (wait_for_exit(child), read_exec_error(child.exec_error_fd)) == (0, None)
    return text.strip()


def sh(script: str, **changes: Any) -> ChildSpec:
    return ChildSpec(argv=(SHELL, "-c", script), environ=ENVIRON, **changes)


def settled_exec_error(fd: int) -> object:
    select.select([fd], [], [], 10.0)
    return read_exec_error(fd)


def test_a_parked_child_runs_nothing_until_it_is_released(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with parked(sh(f"echo ran > {mark}")) as child:
        assert procfs.read_stat(child.pid).start_time_ticks == child.start_time_ticks
        assert read_exec_error(child.exec_error_fd) is ExecProgress.PENDING
        # It has done all that it does on its own once it sleeps in the pipe's read.
        wait_until(lambda: "pipe" in procfs.read_wchan(child.pid), 5.0, "the child to wait at the gate")
        assert not mark.exists()
        release(child)
        assert (wait_for_exit(child), mark.read_text()) == (0, "ran\n")


def test_an_abandoned_child_exits_without_having_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with parked(sh(f"echo ran > {mark}")) as child:
        abandon(child)
        assert (wait_for_exit(child), mark.exists()) == (0, False)
        assert read_exec_error(child.exec_error_fd) is None


def test_the_death_of_the_parent_ends_a_parked_child_even_beside_siblings_and_helpers() -> None:
    code = """
import os, sys, time
from nanny.fork_gate import ChildSpec, fork_helper, park
first = park(ChildSpec(argv=("/bin/sleep", "60"), environ={}))
helper = fork_helper(lambda: time.sleep(3), [])  # must not hold the go pipe of the first
second = park(ChildSpec(argv=("/bin/sleep", "60"), environ={}))
print(first.pid, second.pid, helper.pid, flush=True)
sys.stdin.read()
"""
    with spawn_python(code) as parent:
        first, second, helper = (int(word) for word in parent.read_line().split())
        pidfds = [os.pidfd_open(pid) for pid in (first, second)]
        helper_fd = os.pidfd_open(helper)
        parent.send_signal(signal.SIGKILL)
        for fd in pidfds:
            assert select.select([fd], [], [], 2.5)[0], "a parked child outlived its parent"
        assert not select.select([helper_fd], [], [], 0)[0], "too slow to tell anything: the helper ended"
        signal.pidfd_send_signal(helper_fd, signal.SIGKILL)
        for fd in (*pidfds, helper_fd):
            os.close(fd)


@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGHUP, signal.SIGUSR1]
)
def test_a_parked_child_dies_of_any_signal(signum: int) -> None:
    with parked(sh("exit 0")) as child:
        signal.pidfd_send_signal(child.pidfd, signum)
        assert wait_for_exit(child) == -signum
        # Nobody is there any more to read the byte: no error, its death is told by the pidfd.
        release(child)
        assert read_exec_error(child.exec_error_fd) is None


def test_a_signal_to_a_parked_child_never_wakes_the_parents_loop() -> None:
    door = SignalDoor()
    try:
        door.watch([signal.SIGTERM])
        children = [park(sh("exit 0")) for _ in range(20)]
        for child in children:
            # At once: most have not yet come to their first instruction.
            signal.pidfd_send_signal(child.pidfd, signal.SIGTERM)
        assert [wait_for_exit(child) for child in children] == [-signal.SIGTERM] * 20
        assert select.select([door.fileno()], [], [], 0)[0] == []
        for child in children:
            abandon(child)
            close_ours(child)
    finally:
        door.close()


def test_signals_are_default_and_unblocked_in_the_program() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        status = answer_of(ChildSpec(argv=("/bin/cat", "/proc/self/status"), environ={}))
        mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
    finally:
        signal.signal(signal.SIGUSR1, before)
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    # Two belong to the C library, which lets nobody touch them: their state is that of whoever started us.
    ours = sum(1 << (number - 1) for number in signal.valid_signals())
    assert [int(fields[name], 16) & ours for name in ("SigBlk", "SigIgn", "SigCgt")] == [0, 0, 0]
    assert mask == {signal.SIGUSR2}, "the parent's own mask came back"


def test_only_the_named_descriptors_reach_the_program_at_their_targets() -> None:
    leaky, named = os.pipe()
    os.set_inheritable(leaky, True)
    try:
        spec = ChildSpec(argv=("/bin/ls", "/proc/self/fd"), environ={}, descriptors=((named, 7),))
        seen = {int(name) for name in answer_of(spec).split()}
    finally:
        os.close(leaky)
        os.close(named)
    # `ls` has one of its own open for the listing: the lowest free one.
    assert seen == {0, 1, 2, 3, 7}


def test_sources_and_targets_may_swap_overlap_and_repeat() -> None:
    files = [os.memfd_create(f"m{n}") for n in range(3)]
    for number, fd in enumerate(files):
        os.write(fd, b"%d" % number)
    a, b, c = files
    pairs = ((a, b), (b, a), (c, c), (c, 60))
    script = f"for n in {a} {b} {c} 60; do cat /proc/self/fd/$n; done"
    try:
        assert answer_of(sh(script, descriptors=pairs)) == "1022"
    finally:
        for fd in files:
            os.close(fd)


def test_a_pair_may_name_the_number_of_the_gates_own_pipe() -> None:
    # The next free numbers are those that the gate's pipes will get.
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    source = os.memfd_create("mine")
    os.write(source, b"mine")
    targets = range(free, free + 6)
    script = "".join(f"cat /proc/self/fd/{n};" for n in targets)
    try:
        assert answer_of(sh(script, descriptors=tuple((source, n) for n in targets))) == "mine" * 6
    finally:
        os.close(source)


def test_listen_and_watchdog_pid_are_the_childs_own() -> None:
    script = 'echo "$LISTEN_PID $WATCHDOG_PID $$ $LISTEN_FDS"'
    spec = ChildSpec(
        argv=(SHELL, "-c", script),
        environ=ENVIRON | {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        pass_listen_pid=True,
        pass_watchdog_pid=True,
    )
    listen_pid, watchdog_pid, pid, count = answer_of(spec).split()
    assert (listen_pid, watchdog_pid, count) == (pid, pid, "1")


def test_the_child_gets_its_own_session_unless_told_otherwise() -> None:
    own = answer_of(sh("echo $$ $(ps -o sid= -p $$ 2>/dev/null || cut -d' ' -f6 /proc/$$/stat)")).split()
    assert own[0] == own[1]
    ours = answer_of(sh("cut -d' ' -f6 /proc/$$/stat", new_session=False))
    assert ours == str(os.getsid(0))


def test_umask_directory_niceness_and_oom_score_are_set(tmp_path: Path) -> None:
    script = "umask; pwd; cut -d' ' -f19 /proc/$$/stat; cat /proc/self/oom_score_adj"
    spec = sh(script, umask=0o027, cwd=str(tmp_path), nice=7, oom_score_adj=321)
    assert answer_of(spec).split() == ["0027", str(tmp_path), "7", "321"]


def test_impossible_priorities_do_not_keep_the_program_from_running() -> None:
    assert answer_of(sh("echo runs", oom_score_adj=99_999)) == "runs"


@pytest.mark.root
def test_the_child_becomes_the_user_and_loses_our_groups() -> None:
    script = "grep -E '^(Uid|Gid|Groups)' /proc/self/status"
    fields = dict(
        line.split(":", 1) for line in answer_of(sh(script, user=(65534, 65533, (100, 200)))).splitlines()
    )
    assert {name: value.split() for name, value in fields.items()} == {
        "Uid": ["65534"] * 4,
        "Gid": ["65533"] * 4,
        "Groups": ["100", "200"],
    }


@pytest.mark.root
def test_the_child_looks_up_its_user_itself() -> None:
    entry = pwd.getpwnam("nobody")
    assert answer_of(sh("id -u; id -g", user="nobody")).split() == [str(entry.pw_uid), str(entry.pw_gid)]


@pytest.mark.root
def test_a_parked_child_enters_its_cgroup_before_it_is_released() -> None:
    own = own_cgroup_dir()
    if own is None or not os.access(own, os.W_OK):
        pytest.skip("no writable cgroup v2 mount here")
    cgroup = SubCgroup(f"{own}/nodenanny-gate-{os.getpid()}")
    cgroup.create()
    try:
        with parked(sh("exit 0", cgroup=cgroup.path)) as child:
            wait_until(lambda: cgroup.pids() == (child.pid,), 5.0, "the child to be in its cgroup")
            abandon(child)
    finally:
        wait_until(cgroup.remove, 10.0, "the test's cgroup to be removed")


def test_a_cgroup_that_is_gone_does_not_keep_the_program_from_running(tmp_path: Path) -> None:
    assert answer_of(sh("echo runs", cgroup=str(tmp_path / "gone"))) == "runs"


def test_limits_are_left_alone() -> None:
    soft, _hard = resource.getrlimit(resource.RLIMIT_CORE)
    assert answer_of(sh("ulimit -c")) == ("unlimited" if soft == resource.RLIM_INFINITY else str(soft // 512))


@pytest.mark.parametrize(
    ("changes", "step", "fragment"),
    [
        (
            {"argv": ("/nonexistent/program",)},
            "exec",
            "/nonexistent/program: No such file or directory [ENOENT]",
        ),
        ({"argv": ("no-such-program",)}, "exec", "no-such-program"),
        ({"argv": ("/etc/passwd",)}, "exec", "/etc/passwd: Permission denied [EACCES]"),
        ({"argv": ("/proc",)}, "exec", "Permission denied"),
        ({"argv": ()}, "exec", "impossible"),
        ({"argv": ("/bin/true", "null\0byte")}, "exec", "impossible"),
        ({"cwd": "/nonexistent/place"}, "directory", "/nonexistent/place"),
        ({"descriptors": ((987, 5),)}, "descriptors", "987→5: Bad file descriptor [EBADF]"),
        ({"user": (2**40, 0, ())}, "user", "impossible"),
    ],
)
def test_a_failure_on_the_way_names_step_and_reason(
    changes: dict[str, Any], step: str, fragment: str
) -> None:
    spec = ChildSpec(**({"argv": ("/bin/true",), "environ": ENVIRON} | changes))
    with parked(spec) as child:
        release(child)
        failure = settled_exec_error(child.exec_error_fd)
        assert isinstance(failure, ExecFailed)
        assert failure.step == step
        assert fragment in failure.message
        assert wait_for_exit(child) == 127


def test_the_search_prefers_what_exists_but_may_not_run_over_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("no program")
    environ = {"PATH": f"/nonexistent:{tmp_path}:/also-nonexistent"}
    with parked(ChildSpec(argv=("tool",), environ=environ)) as child:
        release(child)
        failure = settled_exec_error(child.exec_error_fd)
        wait_for_exit(child)
    assert isinstance(failure, ExecFailed)
    assert failure.message == f"exec: {tmp_path}/tool: Permission denied [EACCES]"


def test_a_successful_exec_is_end_of_file_at_once_while_the_program_lives() -> None:
    with parked(ChildSpec(argv=("sleep", "60"), environ=ENVIRON)) as child:
        release(child)
        assert settled_exec_error(child.exec_error_fd) is None
        assert procfs.read_stat(child.pid).comm == "sleep"


def test_a_host_without_descriptors_is_a_host_error_that_leaves_nothing() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The first number with none in use above it: what other tests hold must not count.
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    fillers = [os.open("/dev/null", os.O_RDONLY)]
    while fillers[-1] <= highest:
        fillers.append(os.open("/dev/null", os.O_RDONLY))
    lowest = fillers.pop()
    os.close(lowest)
    refused = []
    # Four pipe ends, a pidfd and the reading of stat: six descriptors at the most.
    for spare in range(7):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + spare, hard))
        try:
            child = park(sh("exit 0"))
        except HostError as error:
            refused.append((spare, error.errno))
        else:
            abandon(child)
            close_ours(child)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        reap_everything()
    for filler in fillers:
        os.close(filler)
    assert refused == [(spare, errno.EMFILE) for spare in range(6)]


def reap_everything() -> None:
    while True:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED)
        except ChildProcessError:
            return


def run_helper(function: Callable[[], None], keep: tuple[int, ...] = ()) -> int:
    helper = fork_helper(function, keep)
    code = wait_for_exit(helper)
    os.close(helper.pidfd)
    return code


def test_a_helper_holds_only_what_it_was_given() -> None:
    kept_read, kept_write = os.pipe()
    stray = socket.socket()

    def tell() -> None:
        os.write(kept_write, " ".join(os.listdir("/proc/self/fd")).encode())

    assert run_helper(tell, (kept_write,)) == 0
    numbers = {int(word) for word in os.read(kept_read, 1000).split()}
    # The listing's own descriptor is in the list.
    assert numbers - {0, 1, 2, kept_write} == {min(set(range(100)) - {0, 1, 2, kept_write})}
    os.close(kept_read)
    os.close(kept_write)
    stray.close()


def test_a_helper_runs_no_exit_function_and_says_its_failure_in_one_line() -> None:
    code = """
import atexit, os, sys
from nanny.fork_gate import fork_helper
atexit.register(lambda: os.write(1, b"exit function\\n"))
out = open(1, "w", closefd=False)
out.write("buffered\\n")  # to be written once, by the parent, at its end
def fail():
    raise ValueError("two\\nlines")
try:
    helper = fork_helper(fail, [])
finally:
    os.write(1, b"stack unwound\\n")
os.write(1, b"%d\\n" % os.waitpid(helper.pid, 0)[1])
"""
    with spawn_python(code, stderr=-1) as parent:
        assert parent.wait_for_exit() == 0
        assert parent.popen.stdout is not None
        assert parent.popen.stderr is not None
        assert parent.popen.stdout.read() == b"stack unwound\n256\nexit function\nbuffered\n"
        stderr = parent.popen.stderr.read().decode()
    assert stderr.count("\n") == 1
    assert stderr.endswith("failed: ValueError: two\\nlines\n")


@pytest.mark.parametrize("escape", [SystemExit(0), KeyboardInterrupt(), RecursionError("deep")])
def test_no_exception_lets_a_helper_return_into_our_stack(
    escape: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    def run() -> None:
        raise escape

    assert run_helper(run) == 1
    assert "helper" in capfd.readouterr().err


def test_a_helper_gets_an_exception_and_no_sigpipe_from_a_closed_pipe() -> None:
    read_fd, write_fd = os.pipe()

    def write() -> None:
        try:
            os.write(write_fd, b"x")
        except BrokenPipeError:
            os._exit(42)

    os.close(read_fd)
    assert run_helper(write, (write_fd,)) == 42
    os.close(write_fd)


def test_parking_is_quick_for_the_parent() -> None:
    def once() -> float:
        started = time.perf_counter()
        child = park(sh("exit 0"))
        took = time.perf_counter() - started
        abandon(child)
        wait_for_exit(child)
        close_ours(child)
        return took

    # Seen: 1 ms. The bound only tells it from one that waits for an exec or a child's imports.
    assert min(once() for _ in range(20)) < 0.02


def test_the_gate_keeps_its_descriptors_to_itself() -> None:
    with parked(sh("exit 0")) as child:
        for fd in (child.go_fd, child.pidfd, child.exec_error_fd):
            assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert not os.get_blocking(child.exec_error_fd)
        release(child)
        wait_for_exit(child)
    gc.collect()
    assert sys.exc_info() == (None, None, None)
