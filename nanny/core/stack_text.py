"""Faulthandler's text read into threads and frames, and what of it names a hang: where, and which kind.

The text comes from a process that is being ended, so it may be torn, repeated or not faulthandler's at all:
nothing here raises, lines that are no part of a stack are passed over, and the cost is linear and bounded.
One text may hold several dumps, since a worker is asked more than once in its life; a thread that appears for
the second time begins the next dump.

Knows nothing of processes and files. Python's faulthandler, Python/traceback.c.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

TEXT_LIMIT: Final = 4 << 20
SIGNATURE_FRAMES: Final = 12
NAME_LIMIT: Final = 200
_LIBRARY_ROOTS: Final = ("site-packages", "dist-packages")
_FRAME: Final = '  File "'
_LINE: Final = '", line '
_THREAD_END: Final = " (most recent call first):"
_FATAL: Final = "Fatal Python error: "


@dataclass(frozen=True, slots=True)
class Frame:
    """One call."""

    file: str
    line: int
    function: str

    @property
    def module(self) -> str:
        """The file as a module, without what differs from one installation to the next.

        Below ``site-packages`` or the standard library its dotted path; elsewhere its last two parts, since
        the text does not say where the search path ends.
        """
        if self.file.startswith("<"):
            return _without_numbers(self.file)
        parts = [part for part in self.file.removesuffix(".py").split("/") if part]
        for index in range(len(parts) - 2, -1, -1):
            if parts[index] in _LIBRARY_ROOTS or _is_standard_library(parts[index]):
                parts = parts[index + 1 :]
                break
        else:
            parts = parts[-2:]
        if len(parts) > 1 and parts[-1] == "__init__":
            parts = parts[:-1]
        return ".".join(parts) or "?"


@dataclass(frozen=True, slots=True)
class ThreadStack:
    """One thread, innermost call first; no frames when it runs no Python code."""

    ident: str
    """As printed, ``0x…``: the pthread's address, which is not the kernel's thread id."""
    name: str
    """Empty where the Python version prints none."""
    is_current: bool
    """The signal met this thread: after a crash the culprit, after a request for stacks any."""
    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class Dump:
    """All threads at one moment, in the order of the text: newest first, so the main thread comes last."""

    threads: tuple[ThreadStack, ...]
    fatal: str = ""
    """What ended the interpreter, if that is why it was written."""
    truncated: bool = False
    """There were more threads than faulthandler prints (100)."""


def parse(text: str) -> tuple[Dump, ...]:
    """Read every dump in the text, oldest first."""
    dumps: list[Dump] = []
    threads: list[ThreadStack] = []
    seen: set[str] = set()
    frames: list[Frame] | None = None
    fatal, truncated = "", False

    def end_thread() -> None:
        nonlocal frames
        if frames is not None:
            threads[-1] = replace(threads[-1], frames=tuple(frames))
            frames = None

    def end_dump() -> None:
        nonlocal fatal, truncated
        end_thread()
        if threads:
            dumps.append(Dump(tuple(threads), fatal, truncated))
        threads.clear()
        seen.clear()
        fatal, truncated = "", False

    for line in text[-TEXT_LIMIT:].split("\n"):
        if line.startswith(_FRAME):
            frame = _frame(line)
            if frame is not None and frames is not None:
                frames.append(frame)
        elif line.startswith(_FATAL):
            end_dump()
            fatal = line.removeprefix(_FATAL)[:NAME_LIMIT]
        elif (thread := _thread(line)) is not None:
            end_thread()
            if thread.ident in seen:
                end_dump()
            seen.add(thread.ident)
            threads.append(thread)
            frames = []
        elif line == "...":
            end_thread()
            truncated = True
        elif not line.startswith("  "):
            # "Current thread's C stack trace", "Extension modules: ...": not of this thread's Python calls.
            end_thread()
    end_dump()
    return tuple(dumps)


def culprit(dump: Dump) -> ThreadStack | None:
    """The thread that matters: the crashed one, else the main thread; None where the dump lacks it."""
    current = next((thread for thread in dump.threads if thread.is_current), None)
    if dump.fatal:
        return current or (None if dump.truncated else dump.threads[-1])
    return current if dump.truncated else dump.threads[-1]


def stalled_at(thread: ThreadStack) -> str:
    """``module:function:line`` of the innermost call; empty without one."""
    if not thread.frames:
        return ""
    top = thread.frames[0]
    return f"{top.module}:{top.function}:{top.line}"


def signature(thread: ThreadStack) -> str:
    """The kind of hang: innermost calls as ``module:function``, joined by `` < ``, without any number of lines.

    Recursion counts once, so that its depth makes no new kind.
    """
    calls: list[str] = []
    for frame in thread.frames:
        call = f"{frame.module}:{frame.function}"
        if not calls or calls[-1] != call:
            calls.append(call)
        if len(calls) == SIGNATURE_FRAMES:
            break
    return " < ".join(calls)


def _thread(line: str) -> ThreadStack | None:
    if not line.endswith(_THREAD_END):
        return None
    head = line.removesuffix(_THREAD_END)
    is_current = head.startswith("Current thread ")
    label = head.removeprefix("Current thread ") if is_current else head.removeprefix("Thread ")
    ident, _, rest = label.partition(" ")
    if label == head or not ident.startswith("0x"):
        return None
    name = rest.removeprefix("[").removesuffix("]") if rest.startswith("[") else ""
    return ThreadStack(ident[:NAME_LIMIT], name[:NAME_LIMIT], is_current, ())


def _frame(line: str) -> Frame | None:
    # A file's name may hold quotes, so the last separator counts; "???" stands for what could not be read.
    file, line_word, rest = line.removeprefix(_FRAME).rpartition(_LINE)
    number, in_word, function = rest.partition(" in ")
    if not (line_word and in_word):
        return None
    is_number = number.isascii() and number.isdigit() and len(number) < 10
    return Frame(file[-NAME_LIMIT * 2 :], int(number) if is_number else 0, function[:NAME_LIMIT])


def _is_standard_library(part: str) -> bool:
    version = part.removeprefix("python").removesuffix("t")
    return part.startswith("python3.") and version.replace(".", "").isdigit()


def _without_numbers(name: str) -> str:
    """``<ipython-input-3-1f2e>`` differs from one run to the next: its numbers become ``#``."""
    out = ""
    for character in name[:NAME_LIMIT]:
        if not character.isdigit():
            out += character
        elif not out.endswith("#"):
            out += "#"
    return out
