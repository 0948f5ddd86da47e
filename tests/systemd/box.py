"""A throw-away machine whose PID 1 is the real systemd: a thin wrapper over `systemd-box.sh`.

The script is found by the variable SYSTEMD_BOX, on PATH, or as `shared/systemd-box.sh` beside the checkout; without
it, or without root, `why_not` says so and the tests are skipped. A box has the name, the PIDs, the network and the
boot id of its own; its disk outlives `reboot` and `crash`, its processes do not.

It knows nothing of what runs in a box. Design of the boxes: systemd-box.md beside the script.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATIENCE_S = 90.0
_CHECKOUT = Path(__file__).parents[2]
_POLL_S = 0.1
_BOOT_LIMIT = ("--boot-timeout", "120")


class BoxError(AssertionError):
    """A command in a box, or the box itself, did not do what it was to do."""


def script() -> str | None:
    """Where the script is; None if it is nowhere."""
    named = os.environ.get("SYSTEMD_BOX")
    beside = _CHECKOUT.parent / "shared" / "systemd-box.sh"
    for found in (named, shutil.which("systemd-box.sh"), str(beside)):
        if found and os.access(found, os.X_OK):
            return found
    return None


def why_not() -> str:
    """Why there can be no box here; empty if there can."""
    if os.geteuid() != 0:
        return "a box needs root"
    if script() is None:
        return "systemd-box.sh not found: set SYSTEMD_BOX, or put it on PATH"
    return ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command in a box said."""

    status: int
    out: str
    err: str


class Box:
    """One machine, down until `start`.

    Args:
        name: 1 to 12 of a-z, 0-9 and -.
        binds: outside -> inside, read-only.
        disk: size of a disk of its own, which loses on `crash` what was not synced; None for the cache's.
    """

    def __init__(self, name: str, binds: Mapping[Path, str], disk: str | None = None) -> None:
        self.name = name
        self._settings = [word for out, inside in binds.items() for word in ("--bind", f"{out}:{inside}")]
        if disk is not None:
            self._settings += ["--disk", disk]
        self._is_made = False

    def start(self) -> Self:
        """Boot it; at the first time, make it."""
        _call("start", self.name, *_BOOT_LIMIT, *([] if self._is_made else self._settings))
        self._is_made = True
        return self

    def reboot(self) -> None:
        """Shut down in order, and boot."""
        _call("reboot", self.name, *_BOOT_LIMIT)

    def crash(self) -> None:
        """Power loss: everything ends at once, and what was not synced to a disk of its own is gone."""
        _call("crash", self.name)

    def remove(self) -> None:
        """End and delete it, whatever state it is in."""
        _call("rm", self.name, check=False)

    def ask(
        self, *command: str, timeout_s: float = PATIENCE_S, stdin: str = "", unit: bool = False
    ) -> Answer:
        """Run a command in the box and give what it said, whatever its exit status.

        Args:
            command: program and arguments; found on the box's PATH.
            timeout_s: for the command.
            stdin: what it reads.
            unit: as a transient unit, as root logged in would; otherwise only inside the box's namespaces.
        """
        how = [] if unit else ["--raw"]
        return _call(
            "exec", self.name, *how, "--timeout", str(int(timeout_s)), "--", *command,
            stdin=stdin, timeout_s=timeout_s + PATIENCE_S, check=False,
        )  # fmt: skip

    def run(self, *command: str, timeout_s: float = PATIENCE_S, stdin: str = "") -> str:
        """Run a command that must succeed; its output.

        Raises:
            BoxError: it did not.
        """
        answer = self.ask(*command, timeout_s=timeout_s, stdin=stdin)
        if answer.status != 0:
            raise BoxError(
                f"{' '.join(command)} -> {answer.status}\n{answer.out[-3000:]}\n{answer.err[-3000:]}"
            )
        return answer.out

    def sh(self, text: str, timeout_s: float = PATIENCE_S) -> str:
        """Run a shell script that must succeed; its output."""
        return self.run("sh", "-euc", text, timeout_s=timeout_s)

    def write(self, path: str, content: str) -> None:
        """Write a file, with its directories."""
        self.run("sh", "-euc", 'mkdir -p "$(dirname "$1")"; cat > "$1"', "sh", path, stdin=content)

    def wait_until(
        self, holds: Callable[[], object], what: str, timeout_s: float = PATIENCE_S, unit: str = "nodenanny"
    ) -> None:
        """Poll until something holds; when it never does, the unit's journal is in the error.

        Raises:
            BoxError: it never held.
        """
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                raise BoxError(f"waited {timeout_s:g} s for {what}\n{self.journal(unit)[-6000:]}")
            time.sleep(_POLL_S)

    def journal(self, unit: str, *options: str) -> str:
        """What the journal has of a unit."""
        return self.ask("journalctl", "--no-pager", "-u", unit, *options).out


def _call(
    verb: str, *arguments: str, stdin: str = "", timeout_s: float = 300.0, check: bool = True
) -> Answer:
    found = script()
    assert found is not None
    done = subprocess.run(
        [found, verb, *arguments], input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if check and done.returncode != 0:
        raise BoxError(f"systemd-box {verb} -> {done.returncode}: {done.stderr[-3000:]}")
    return Answer(done.returncode, done.stdout, done.stderr)


def remove_left_over(*prefixes: str) -> None:
    """Remove the boxes of test runs that were killed: named with one of the prefixes and the pid of a run."""
    for line in _call("list").out.splitlines():
        name = line.split()[0]
        prefix, _, pid = name.rpartition("-")
        if prefix in prefixes and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            _call("rm", name, check=False)


def one_shot(command: str, *settings: str) -> str:
    """Run a shell script in a box that exists only for it; its output.

    Raises:
        BoxError: it failed, or the box could not be made.
    """
    answer = _call("run", *_BOOT_LIMIT, *settings, "--", "sh", "-euc", command)
    return answer.out
