"""What the kernel knows of one worker: its threads, limits, descriptors, command line, memory map, cgroup.

In two halves: what takes no lock of the worker's (``cheap``, ``cgroup``), and what does or may (``costly``, for a
process of its own, most valuable and least dangerous first). Descriptors are named by readlink and never
looked up: their file systems may be dead. Environments are not read: they hold secrets.

proc(5), Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_FILE_LIMIT_BYTES: Final = 65_536
_THREADS_LIMIT: Final = 200
_DESCRIPTORS_LIMIT: Final = 500
_MAPPINGS_LIMIT: Final = 60
_CGROUP_FILES: Final = (
    "cgroup.events",
    "cgroup.procs",
    "cgroup.stat",
    "cpu.stat",
    "cpu.pressure",
    "memory.pressure",
    "io.pressure",
    "memory.current",
    "memory.events",
    "pids.current",
    "pids.events",
)


def read_text(path: str, limit_bytes: int = _FILE_LIMIT_BYTES) -> str:
    """Give a small kernel file, cut at the limit.

    Raises:
        OSError: it is not there or cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        content = chunk = os.read(fd, limit_bytes)
        while chunk and len(content) < limit_bytes:
            chunk = os.read(fd, limit_bytes - len(content))
            content += chunk
    finally:
        os.close(fd)
    return content.decode("utf-8", "backslashreplace")


def section(title: str, path: str) -> str:
    """Give a file under its title, or why it cannot be given."""
    try:
        return f"== {title}\n{read_text(path).rstrip()}\n"
    except OSError as error:
        return f"== {title}\n({error.strerror})\n"


def cheap(pid: int, proc: str = "/proc") -> str:
    """Give the main thread's stat and status, and one line for each thread.

    Raises:
        ProcessLookupError: it is gone.
        OSError: /proc cannot be read.
    """
    base = f"{proc}/{pid}"
    try:
        tids = sorted(int(name) for name in os.listdir(f"{base}/task"))
    except FileNotFoundError:
        raise ProcessLookupError(f"process {pid} is gone") from None
    parts = [section("stat", f"{base}/stat"), section("status", f"{base}/status")]
    lines = ["== threads: tid name state wchan run_s queued_s timeslices"]
    lines += [_thread_line(f"{base}/task/{tid}", tid) for tid in tids[:_THREADS_LIMIT]]
    if len(tids) > _THREADS_LIMIT:
        lines.append(f"({len(tids) - _THREADS_LIMIT} more)")
    return "".join(parts) + "\n".join(lines) + "\n"


def cgroup(path: str | None) -> str:
    """Give the cgroup's account and what runs in it."""
    if path is None:
        return "(the worker has no cgroup of its own)\n"
    if not os.path.isdir(path):
        return f"{path}\n(gone: a dead worker's cgroup is removed)\n"
    present = [name for name in _CGROUP_FILES if os.path.exists(f"{path}/{name}")]
    parts = [f"{path}\n", *(section(name, f"{path}/{name}") for name in present)]
    parts.append("== processes: pid name state wchan\n")
    for pid in _read_or(f"{path}/cgroup.procs", "").split()[:_THREADS_LIMIT]:
        name, state = _name_and_state(_read_or(f"/proc/{pid}/stat", ""))
        parts.append(f"{pid} {name} {state} {_wchan(f'/proc/{pid}')}\n")
    return "".join(parts)


def costly(pid: int, tell: Callable[[bytes], None], proc: str = "/proc") -> None:
    """Tell, piece by piece, what may hang: kernel stacks, limits, descriptors, command line, memory map.

    The last two need the lock of the memory map, which a thread in D state may hold for ever.
    """
    base = f"{proc}/{pid}"
    for part in (_kernel_stacks, _limits, _descriptors, _command_line, _memory_map):
        try:
            text = part(base) if part not in _LOCKING or not _sleeps_uninterruptibly(base) else _NOT_READ
        except OSError as error:
            text = f"== {part.__name__.strip('_').replace('_', ' ')}\n({error.strerror})\n"
        tell(text.encode("utf-8", "backslashreplace").replace(b"\0", b" "))


def _kernel_stacks(base: str) -> str:
    parts = ["== kernel stacks\n"]
    for tid in sorted(os.listdir(f"{base}/task"), key=int)[:_THREADS_LIMIT]:
        frames = _read_or(f"{base}/task/{tid}/stack", "(not to be had)").split("\n")
        shown = [line.removeprefix("[<0>] ").partition("+")[0] for line in frames if line]
        parts.append(f"{tid} {' < '.join(shown) or '(runs)'}\n")
    return "".join(parts)


def _limits(base: str) -> str:
    return section("limits", f"{base}/limits")


def _descriptors(base: str) -> str:
    names = sorted(os.listdir(f"{base}/fd"), key=int)
    lines = [f"== descriptors: {len(names)}"]
    for name in names[:_DESCRIPTORS_LIMIT]:
        try:
            lines.append(f"{name} {os.readlink(f'{base}/fd/{name}')}")
        except OSError as error:
            lines.append(f"{name} ({error.strerror})")
    if len(names) > _DESCRIPTORS_LIMIT:
        lines.append(f"({len(names) - _DESCRIPTORS_LIMIT} more)")
    return "\n".join(lines) + "\n"


def _command_line(base: str) -> str:
    words = read_text(f"{base}/cmdline", 8192).split("\0")
    return f"== command line\n{' '.join(words).strip()}\n"


def _memory_map(base: str) -> str:
    sizes: dict[str, int] = {}
    count = 0
    for line in read_text(f"{base}/maps", 4 << 20).split("\n"):
        fields = line.split(maxsplit=5)
        begin, _, end = (fields[0] if fields else "").partition("-")
        if not end:
            continue
        count += 1
        name = fields[5] if len(fields) > 5 else "(anonymous)"
        sizes[name] = sizes.get(name, 0) + int(end, 16) - int(begin, 16)
    largest = sorted(sizes.items(), key=lambda item: -item[1])
    lines = [f"== memory map: {count} mappings of {len(sizes)} names; the largest, in KiB of address space"]
    lines += [f"{size >> 10} {name}" for name, size in largest[:_MAPPINGS_LIMIT]]
    return "\n".join(lines) + "\n"


_LOCKING: Final = (_command_line, _memory_map)
_NOT_READ: Final = "(not read: a thread in D state may hold the lock of the memory map)\n"


def _sleeps_uninterruptibly(base: str) -> bool:
    return any(
        _name_and_state(_read_or(f"{base}/task/{tid}/stat", ""))[1] == "D"
        for tid in os.listdir(f"{base}/task")
    )


def _thread_line(base: str, tid: int) -> str:
    name, state = _name_and_state(_read_or(f"{base}/stat", ""))
    run_ns, wait_ns, slices = [*_read_or(f"{base}/schedstat", "").split(), "0", "0", "?"][:3]
    return f"{tid} {name} {state} {_wchan(base)} {int(run_ns) / 1e9:.3f} {int(wait_ns) / 1e9:.3f} {slices}"


def _name_and_state(stat: str) -> tuple[str, str]:
    head, _, tail = stat.rpartition(")")
    return head.partition("(")[2].replace("\n", " ") or "?", (tail.split() or ["?"])[0]


def _wchan(base: str) -> str:
    symbol = _read_or(f"{base}/wchan", "0").strip()
    return "-" if symbol in {"0", ""} else symbol


def _read_or(path: str, absent: str) -> str:
    try:
        return read_text(path)
    except OSError:
        return absent
