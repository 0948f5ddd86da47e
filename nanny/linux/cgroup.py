"""Plain sub-cgroups of our own cgroup (v2): to kill, count and account for a worker with all its descendants.

Never writes `cgroup.subtree_control`: with controllers enabled, processes may live in leaves only, and then
every restart of the unit fails with 219/CGROUP while the worker is alive. So `cpu.stat`'s core fields,
pressure and `cgroup.kill` are there, memory's files only where someone above enabled the controller.

Knows nothing of incarnations. All reads and writes are small; a cgroup that is gone reads as an empty one.
cgroups(7), Documentation/admin-guide/cgroup-v2.rst.
"""

import errno
import os
from dataclasses import dataclass
from typing import Literal

from nanny.errors import HostError

_CHUNK_BYTES = 65_536
# A worker may nest cgroups below its own; one call removes at most so many, the next one goes on.
_REMOVE_LIMIT = 256
_GONE = (errno.ENOENT, errno.ENODEV)


@dataclass(frozen=True, slots=True)
class CpuStat:
    """CPU time of a cgroup since its birth, in seconds; `throttled_s` is None without the cpu controller."""

    usage_s: float
    user_s: float
    system_s: float
    throttled_s: float | None


@dataclass(frozen=True, slots=True)
class Pressure:
    """Stall information: share of the last 10 and 60 s in percent, and the total in seconds.

    `some`: at least one task stalled; `full`: all of them (0 where the kernel gives no such line).
    """

    some_avg10: float
    some_avg60: float
    some_total_s: float
    full_avg10: float
    full_avg60: float
    full_total_s: float


def own_cgroup_dir(proc: str = "/proc") -> str | None:
    """Give the directory of our own v2 cgroup; None where there is none that can be written.

    Pure v2 and hybrid hosts, containers with their own cgroup namespace or with a part of the tree mounted.

    Raises:
        HostError: /proc cannot be read.
    """
    own = _own_path(_read(f"{proc}/self/cgroup") or b"")
    if own is None:
        return None
    for line in (_read(f"{proc}/self/mountinfo") or b"").splitlines():
        left, _, right = line.partition(b" - ")
        mount_fields, fs_fields = left.split(b" "), right.split(b" ")
        if len(mount_fields) < 6 or len(fs_fields) < 3 or fs_fields[0] != b"cgroup2":
            continue
        if b"ro" in mount_fields[5].split(b",") or b"ro" in fs_fields[2].split(b","):
            continue
        root, mount_point = _unescaped(mount_fields[3]), _unescaped(mount_fields[4])
        below = _relative(own, root)
        if below is None:
            continue
        directory = os.path.join(mount_point, below) if below else mount_point
        # Something else may be mounted on top; only a v2 directory has this file.
        if os.path.exists(f"{directory}/cgroup.controllers"):
            return directory
    return None


class SubCgroup:
    """One cgroup below ours. `path` need not exist yet."""

    def __init__(self, path: str) -> None:
        self.path = path

    def create(self) -> bool:
        """Make the cgroup; False if it was there already (look at `pids` before trusting it).

        Raises:
            HostError: not delegated to us, or no cgroup file system.
        """
        try:
            os.mkdir(self.path, 0o755)
        except FileExistsError:
            return False
        except OSError as error:
            raise HostError.from_os_error(
                "make a cgroup", error, self.path, "the worker's descendants cannot be killed as a whole"
            ) from error
        return True

    def adopt(self, pid: int) -> None:
        """Move a process with all its threads into the cgroup; its later children are born there.

        The writer waits for an RCU grace period unless another move was just made: some 8 ms (16 at most)
        on a 2-core VM. A forked child can move itself instead, by pid 0, and only the child waits.

        Raises:
            ProcessLookupError: the process is gone.
            HostError: the kernel refused, or the cgroup is gone.
        """
        self._write("cgroup.procs", str(pid), "the process stays in the nanny's own cgroup")

    def pids(self) -> tuple[int, ...]:
        """Give the live processes directly in it (no zombies); 0 is one of a foreign pid namespace."""
        path = f"{self.path}/cgroup.procs"
        content = _read(path) or b""
        try:
            return tuple(sorted(int(line) for line in content.split()))
        except ValueError as error:
            raise _malformed(path, content) from error

    def populated(self) -> bool:
        """Tell whether a live process is in it or below it; zombies do not count."""
        return self._counters("cgroup.events").get("populated", 0) == 1

    def kill(self) -> None:
        """Send SIGKILL to every process in it and below it, forks under way included; waits for none.

        Raises:
            HostError: the kernel is older than 5.14, or refused.
        """
        try:
            self._write("cgroup.kill", "1", "descendants of the worker may survive it")
        except HostError as error:
            if error.errno in _GONE and not os.path.exists(self.path):
                return
            raise

    def remove(self) -> bool:
        """Remove it with the empty cgroups below it; False while live processes keep it.

        Raises:
            HostError: refused for any other reason.
        """
        budget = _REMOVE_LIMIT
        pending = [self.path]
        while pending:
            if not budget:
                return False
            budget -= 1
            try:
                os.rmdir(pending[-1])
                pending.pop()
                continue
            except FileNotFoundError:
                pending.pop()
                continue
            except OSError as error:
                if error.errno not in {errno.EBUSY, errno.ENOTEMPTY}:
                    raise HostError.from_os_error(
                        "remove a cgroup", error, pending[-1], "an empty cgroup stays behind"
                    ) from error
            below = _any_child(pending[-1])
            if below is None:
                return False
            pending.append(below)
        return True

    def cpu_stat(self) -> CpuStat | None:
        """Give the CPU time used by it and below it, None if it is gone."""
        counters = self._counters("cpu.stat")
        if "usage_usec" not in counters:
            return None
        throttled = counters.get("throttled_usec")
        try:
            return CpuStat(
                usage_s=counters["usage_usec"] / 1e6,
                user_s=counters.get("user_usec", 0) / 1e6,
                system_s=counters.get("system_usec", 0) / 1e6,
                throttled_s=None if throttled is None else throttled / 1e6,
            )
        except OverflowError as error:
            raise _malformed(f"{self.path}/cpu.stat", str(counters).encode()) from error

    def pressure(self, kind: Literal["cpu", "memory", "io"]) -> Pressure | None:
        """Give the stall information, None where the kernel keeps none."""
        content = _read(f"{self.path}/{kind}.pressure", absent=(*_GONE, errno.EOPNOTSUPP))
        try:
            return None if content is None else _parsed_pressure(content)
        except (ValueError, OverflowError) as error:
            raise _malformed(f"{self.path}/{kind}.pressure", content or b"") from error

    def memory_events(self) -> dict[str, int] | None:
        """Give the memory controller's counters (low high max oom oom_kill), None where it is not enabled."""
        return self._counters("memory.events") or None

    def _counters(self, name: str) -> dict[str, int]:
        counters = {}
        path = f"{self.path}/{name}"
        for line in (_read(path) or b"").splitlines():
            key, _, value = line.partition(b" ")
            try:
                counters[key.decode()] = int(value)
            except ValueError as error:
                raise _malformed(path, line) from error
        return counters

    def _write(self, name: str, text: str, degraded: str) -> None:
        path = f"{self.path}/{name}"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except ProcessLookupError:
            raise
        except OSError as error:
            raise HostError.from_os_error(f"write {text!r}", error, path, degraded) from error


def _read(path: str, absent: tuple[int, ...] = _GONE) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = chunk = os.read(fd, _CHUNK_BYTES)
            while chunk:
                chunk = os.read(fd, _CHUNK_BYTES)
                content += chunk
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in absent:
            return None
        raise HostError.from_os_error("read", error, path, "the cgroup's account is missing") from error
    return content


def _own_path(content: bytes) -> str | None:
    for line in content.splitlines():
        if line.startswith(b"0::"):
            own = os.fsdecode(line[3:])
            # "/.." starts the path of a process outside its cgroup namespace's root.
            return None if own.startswith("/..") or own.endswith(" (deleted)") else own
    return None


def _relative(own: str, root: str) -> str | None:
    """Give `own` relative to the part of the tree that is mounted, None if it lies outside of it."""
    prefix = root.rstrip("/") + "/"
    if not f"{own}/".startswith(prefix):
        return None
    return own[len(prefix) :]


def _unescaped(field: bytes) -> str:
    """Undo the octal escapes of mountinfo (blank, tab, newline, backslash), see proc_pid_mountinfo(5)."""
    head, *rest = field.split(b"\\")
    try:
        parts = [bytes([int(part[:3], 8)]) + part[3:] for part in rest]
    except ValueError as error:
        raise _malformed("mountinfo", field) from error
    return os.fsdecode(head + b"".join(parts))


def _malformed(path: str, content: bytes) -> HostError:
    return HostError(f"understand {content[:80]!r}", 0, path, "the cgroup's account is missing")


def _any_child(path: str) -> str | None:
    try:
        with os.scandir(path) as entries:
            return next((entry.path for entry in entries if entry.is_dir(follow_symlinks=False)), None)
    except FileNotFoundError:
        return None


def _parsed_pressure(content: bytes) -> Pressure:
    lines: dict[str, dict[str, str]] = {"some": {}, "full": {}}
    for line in content.decode().splitlines():
        kind, _, rest = line.partition(" ")
        lines[kind] = dict(field.split("=", 1) for field in rest.split())
    some, full = lines["some"], lines["full"]
    return Pressure(
        some_avg10=float(some.get("avg10", 0)),
        some_avg60=float(some.get("avg60", 0)),
        some_total_s=int(some.get("total", 0)) / 1e6,
        full_avg10=float(full.get("avg10", 0)),
        full_avg60=float(full.get("avg60", 0)),
        full_total_s=int(full.get("total", 0)) / 1e6,
    )
