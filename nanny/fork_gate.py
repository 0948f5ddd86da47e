"""The only place where the nanny makes children: born parked, released by one byte, or gone at end of file.

A parked child has its descriptors in place, default signals, nothing else of ours open, and waits on a pipe.
The nanny records it and only then writes the go byte; a nanny that dies in between leaves end of file, and
the child exits. Between the byte and execve stand only system calls; what fails there is told on a
close-on-exec pipe, so that a program on a dead mount blocks its own child and never the nanny.

It knows neither incarnations nor cgroups nor the journal, and reaps nobody (nanny.reaper does).
A standby is this gate further along: released at once, with a channel among `descriptors` at which the *program*
waits, its imports done, for the wake that is sent once the standby is recorded as the worker.

fork(2), execve(2), pidfd_open(2), setresuid(2), signal(7).
"""

import errno as errno_names
import fcntl
import os
import signal
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, NoReturn

from nanny.errors import HostError
from nanny.linux import pidfd as pidfds
from nanny.linux import procfs

_GO: Final = b"g"
_STANDARD_FDS: Final = frozenset({0, 1, 2})
# At most PIPE_BUF into an empty pipe: the report is one piece and its writer never waits.
_REPORT_LIMIT_BYTES: Final = 4096
_EXIT_ABANDONED: Final = 0
_EXIT_NOT_EXECUTED: Final = 127
_ALL_SIGNALS: Final = frozenset(signal.valid_signals())
_SETTABLE_SIGNALS: Final = _ALL_SIGNALS - {signal.SIGKILL, signal.SIGSTOP}


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """Everything about a child to be.

    Attributes:
        argv: the program and its arguments; without a slash it is searched in the PATH of `environ`.
        environ: its whole environment.
        cwd: where it starts; None keeps ours.
        user: uid, gid and supplementary groups, or a name that the child looks up (a directory service may hang,
            and then it is the child that does); None keeps ours.
        descriptors: pairs (ours, the child's number); ours may be closed as soon as `park` returned. 0 to 2
            are inherited where no pair names them, nothing else is.
        pass_listen_pid: set LISTEN_PID to the child's pid (sd_listen_fds(3)).
        pass_watchdog_pid: set WATCHDOG_PID to the child's pid (sd_watchdog_enabled(3)).
        umask: None keeps ours.
        nice: absolute, best effort; None keeps ours.
        oom_score_adj: -1000 to 1000, best effort; None keeps ours.
        cgroup: the directory of an existing v2 cgroup that the child moves itself into while it is parked (a
            move can wait 8 ms for the kernel, which is the child's time and not ours); best effort.
        new_session: setsid(2), so that no signal to our group or terminal reaches it.
    """

    argv: tuple[str, ...]
    environ: dict[str, str]
    cwd: str | None = None
    user: tuple[int, int, tuple[int, ...]] | str | None = None
    descriptors: tuple[tuple[int, int], ...] = ()
    pass_listen_pid: bool = False
    pass_watchdog_pid: bool = False
    umask: int | None = None
    nice: int | None = None
    oom_score_adj: int | None = None
    cgroup: str | None = None
    new_session: bool = True


@dataclass(frozen=True, slots=True)
class ParkedChild:
    """A child at the gate. `pidfd` and `exec_error_fd` (non-blocking) are the caller's to close."""

    pid: int
    pidfd: int
    start_time_ticks: int
    go_fd: int
    exec_error_fd: int


@dataclass(frozen=True, slots=True)
class Helper:
    """A forked piece of the nanny itself. `pidfd` is the caller's to close."""

    pid: int
    pidfd: int


@dataclass(frozen=True, slots=True)
class ExecFailed:
    """Why a child never ran its program; its exit code is 127.

    Attributes:
        step: descriptors, session, user, directory or exec.
        errno: the kernel's answer; 0 where the specification itself was impossible.
        message: the whole story, for people.
    """

    step: str
    errno: int
    message: str


class ExecProgress(Enum):
    """What `read_exec_error` gives while the child is still on its way."""

    PENDING = "pending"


def park(spec: ChildSpec) -> ParkedChild:
    """Make a child that waits at the gate; it dies of any signal and of our death. About 1 ms, never waits.

    Raises:
        HostError: no process, memory or descriptor left; nothing is left behind but perhaps a zombie to reap.
    """
    ours: list[int] = []
    try:
        go_read, go_write = os.pipe2(os.O_CLOEXEC)
        ours += go_read, go_write
        error_read, error_write = os.pipe2(os.O_CLOEXEC)
        ours += error_read, error_write
        os.set_blocking(error_read, False)
        pid = _fork(lambda: _wait_and_execute(spec, go_read, error_write))
        pidfd = pidfds.open_pidfd(pid)
        ours.append(pidfd)
        start_time_ticks = procfs.read_stat(pid).start_time_ticks
    except (OSError, HostError) as error:
        # Closing the go pipe is also what ends a child that exists already.
        for fd in ours:
            os.close(fd)
        raise _no_child(error) from error
    os.close(go_read)
    os.close(error_write)
    return ParkedChild(pid, pidfd, start_time_ticks, go_write, error_read)


def release(parked: ParkedChild) -> None:
    """Let the child execute its program. Either this or `abandon`, once; a dead child is no error here."""
    with suppress(BrokenPipeError):
        os.write(parked.go_fd, _GO)
    os.close(parked.go_fd)


def abandon(parked: ParkedChild) -> None:
    """Let the child exit without having run anything. Either this or `release`, once.

    `exec_error_fd` then comes to its end as after a success; the child's death shows by its `pidfd`.
    """
    os.close(parked.go_fd)


def read_exec_error(fd: int) -> ExecFailed | Literal[ExecProgress.PENDING] | None:
    """Tell how the way to the program ended; never waits. Close `fd` unless it is still PENDING.

    None says that there is nothing more to learn: the program runs, or the child died on its way by a signal.
    """
    try:
        report = os.read(fd, _REPORT_LIMIT_BYTES)
    except BlockingIOError:
        return ExecProgress.PENDING
    if not report:
        return None
    number, _, rest = report.decode("utf-8", "backslashreplace").partition("\0")
    step, _, about = rest.partition("\0")
    errno = int(number)
    reason = f"{os.strerror(errno)} [{errno_names.errorcode.get(errno, errno)}]" if errno else "impossible"
    return ExecFailed(step, errno, f"{step}: {about}: {reason}")


def fork_helper(function: Callable[[], None], keep_descriptors: Collection[int]) -> Helper:
    """Run a function in a child of its own that holds only the named descriptors and 0 to 2.

    Signals have their default effect there, except SIGPIPE (ignored: Python code expects the exception).
    The child exits with 0, or with 1 and one line on stderr; it never returns into our stack, flushes no
    buffer of ours and runs no exit function. It outlives us: one that must not watches a pipe of ours for
    end of file.

    Raises:
        HostError: no process, memory or descriptor left.
    """
    try:
        pid = _fork(lambda: _run_and_exit(function, keep_descriptors))
    except OSError as error:
        raise _no_child(error) from error
    try:
        return Helper(pid, pidfds.open_pidfd(pid))
    except OSError as error:
        # Unwatched it would be nobody's. It is our unreaped child: the pid cannot be another's.
        os.kill(pid, signal.SIGKILL)
        raise _no_child(error) from error


def _no_child(error: OSError | HostError) -> HostError:
    degraded = "it is tried again"
    if isinstance(error, HostError):
        return HostError("make a child", error.errno, error.path, degraded)
    return HostError.from_os_error("make a child", error, degraded=degraded)


def _fork(in_child: Callable[[], NoReturn]) -> int:
    """Fork with all signals blocked: none may reach the child before it has left our wake-up descriptor."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            try:
                _leave_the_parents_signals()
                in_child()
            finally:
                os._exit(_EXIT_NOT_EXECUTED)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _leave_the_parents_signals() -> None:
    signal.set_wakeup_fd(-1)
    for signum in _SETTABLE_SIGNALS:
        # All of them: one that C code has installed (faulthandler) does not show in signal.getsignal.
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _run_and_exit(function: Callable[[], None], keep_descriptors: Collection[int]) -> NoReturn:
    try:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        _close_all_but(_STANDARD_FDS.union(keep_descriptors))
        function()
    except BaseException as error:
        line = f"{type(error).__name__}: {error}".replace("\n", "\\n")
        _write_line(f"nanny helper {os.getpid()} failed: {line}\n")
        os._exit(1)
    os._exit(0)


def _write_line(line: str) -> None:
    with suppress(OSError):
        os.write(2, line.encode("utf-8", "backslashreplace")[:_REPORT_LIMIT_BYTES])


def _wait_and_execute(spec: ChildSpec, go_read: int, error_write: int) -> NoReturn:
    """Do everything that a child does before it becomes the program."""
    step, about = "descriptors", " ".join(f"{ours}→{theirs}" for ours, theirs in spec.descriptors)
    try:
        go_read, error_write = _place_descriptors(spec.descriptors, go_read, error_write)
        _enter_cgroup(spec.cgroup)
        if os.read(go_read, 1) != _GO:
            os._exit(_EXIT_ABANDONED)
        step, about = "session", "setsid"
        if spec.new_session:
            os.setsid()
        if spec.umask is not None:
            os.umask(spec.umask)
        _set_priorities(spec)
        if spec.user is not None:
            step, about = "user", str(spec.user)
            uid, gid, groups = _ids_of(spec.user) if isinstance(spec.user, str) else spec.user
            about = f"uid {uid}, gid {gid}, groups {groups}"
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        if spec.cwd is not None:
            step, about = "directory", spec.cwd
            os.chdir(spec.cwd)
        step, about = "exec", " ".join(spec.argv[:1])
        _execute(spec)
    except OSError as error:
        path = error.filename if isinstance(error.filename, str) else about
        _report(error_write, error.errno or 0, step, path)
    except BaseException as error:
        _report(error_write, 0, step, f"{about}: {type(error).__name__}: {error}")
    os._exit(_EXIT_NOT_EXECUTED)


def _ids_of(name: str) -> tuple[int, int, tuple[int, ...]]:
    import pwd  # noqa: PLC0415  # only where a user is configured

    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise LookupError("there is no such user: create it, or correct the setting") from None
    return entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(name, entry.pw_gid))


def _enter_cgroup(directory: str | None) -> None:
    if directory is None:
        return
    with suppress(OSError):
        fd = os.open(os.path.join(directory, "cgroup.procs"), os.O_WRONLY | os.O_CLOEXEC)
        os.write(fd, b"0")
        os.close(fd)


def _report(fd: int, errno: int, step: str, about: str) -> None:
    report = f"{errno}\0{step}\0{about}".encode("utf-8", "surrogateescape")
    with suppress(OSError):
        os.write(fd, report[:_REPORT_LIMIT_BYTES])


def _place_descriptors(pairs: tuple[tuple[int, int], ...], go_read: int, error_write: int) -> tuple[int, int]:
    """Put each source at its target, close the rest; give the gate's own two where they are now.

    All are first copied above the targets: a source may be another pair's target, or a target our pipe.
    """
    targets = {target for _, target in pairs}
    floor = max(targets | _STANDARD_FDS) + 1

    def lift(fd: int) -> int:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, floor)

    go_read, error_write, *sources = [lift(fd) for fd in (go_read, error_write, *(ours for ours, _ in pairs))]
    for source, (_, target) in zip(sources, pairs, strict=True):
        os.dup2(source, target, inheritable=True)
    _close_all_but(targets | _STANDARD_FDS | {go_read, error_write})
    return go_read, error_write


def _close_all_but(keep: Collection[int]) -> None:
    """Close every other descriptor, close-on-exec or not: a go pipe of a sibling must not live on in us."""
    for fd in _open_descriptors():
        if fd not in keep:
            # EBADF: the descriptor of the listing itself.
            with suppress(OSError):
                os.close(fd)


def _open_descriptors() -> Iterable[int]:
    # Not os.closerange: where the C library lacks close_range(2) it is a loop of up to a million calls.
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return range(os.sysconf("SC_OPEN_MAX"))


def _set_priorities(spec: ChildSpec) -> None:
    """Best effort: a worker with the wrong priority is better than none."""
    if spec.nice is not None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, spec.nice)
    if spec.oom_score_adj is not None:
        with suppress(OSError):
            fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
            os.write(fd, b"%d" % spec.oom_score_adj)
            os.close(fd)


def _execute(spec: ChildSpec) -> NoReturn:
    """Become the program.

    Raises:
        OSError: of the first candidate that exists but cannot be executed, else of the last one tried.
    """
    environ = dict(spec.environ)
    if spec.pass_listen_pid:
        environ["LISTEN_PID"] = str(os.getpid())
    if spec.pass_watchdog_pid:
        environ["WATCHDOG_PID"] = str(os.getpid())
    program = spec.argv[0]
    folders = [""] if "/" in program else os.get_exec_path(environ)
    failure: OSError | None = None
    for folder in folders:
        path = os.path.join(folder, program)
        try:
            os.execve(path, spec.argv, environ)  # noqa: S606  # no shell on purpose
        except OSError as error:
            error.filename = path
            if failure is None or isinstance(failure, FileNotFoundError | NotADirectoryError):
                failure = error
    assert failure is not None, "get_exec_path gives at least one folder"
    raise failure
