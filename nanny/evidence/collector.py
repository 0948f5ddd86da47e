"""Makes one bundle, in a process forked from the nanny: steps in order of worth, each with a deadline.

What can hang (the victim's memory locks, the disk) runs apart, in a process of its own; what was found before
is on its way to the disk while the rest is still being looked for. A disk that does not take the bundle in
time gets a smaller one kept in memory instead (``<runtime_dir>/evidence``), and the answer says so. Deleting old
bundles and syncing the new one come after the answer: the worker's kill does not wait for them.

Every failure of a step is noted in ``manifest.json``; none keeps the others from being taken.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Final, Self

from nanny.errors import HostError
from nanny.evidence import bundle_files, node_facts, retention, stacks, summary, victim
from nanny.evidence.answer import Answer, render
from nanny.evidence.apart import Apart, ApartResult, Stuck
from nanny.evidence.bundle_name import UNFINISHED
from nanny.linux import procfs
from nanny.linux.subreaper import set_process_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanny.evidence.order import Order

FALLBACK_LIMITS: Final = retention.Limits(4, 8 << 20)
_COSTLY_S: Final = 0.4
_UNHURRIED_NICE: Final = 10
_KERNEL_LOG_S: Final = 0.2
_KEPT_FOR_FALLBACK_S: Final = 0.2
_LEAST_WRITING_S: Final = 0.3


def collect(order: Order) -> None:
    """Make the bundle, answer on ``result_fd``, tidy up. The whole life of the helper."""
    with suppress(HostError):
        set_process_name("nanny-evidence")
    if order.post_mortem:
        # Nobody's kill waits for it, and the next worker is starting meanwhile.
        os.nice(_UNHURRIED_NICE)
    collection = _Collection(order)
    try:
        answer = collection.run()
    except Exception as error:
        answer = Answer("", f"the collector failed: {error!r}", stuck=tuple(collection.stuck))
    with suppress(OSError):  # the nanny may have gone; the bundle is there
        os.write(order.result_fd, render(answer))
    os.close(order.result_fd)
    if collection.disk_problem:
        retention.apply(order.fallback_dir, FALLBACK_LIMITS)
    if not collection.disk_hangs:
        retention.apply(order.bundles_dir, retention.Limits(order.keep, order.keep_bytes))
        if answer.bundle and not collection.disk_problem:
            with suppress(OSError):
                bundle_files.sync(f"{order.bundles_dir}/{order.name}")


class _Collection:
    """One bundle in the making.

    Attributes:
        stuck: processes of ours that outlived their SIGKILL.
        disk_problem: why the bundle is not on the disk; empty while it is, or may be.
        disk_hangs: the disk did not answer at all.
    """

    def __init__(self, order: Order) -> None:
        self.stuck: list[Stuck] = []
        self.disk_problem = "the disk still hangs" if order.avoid_disk else ""
        self.disk_hangs = order.avoid_disk
        self._order = order
        self._files: dict[str, bytes] = {}
        self._steps: list[dict[str, object]] = []
        self._troubles: list[str] = []
        self._begun_at = time.monotonic()
        until = max(order.victim_until - _KEPT_FOR_FALLBACK_S, self._begun_at + _LEAST_WRITING_S)
        self._write_by = min(until, order.answer_by - _KEPT_FOR_FALLBACK_S)

    def run(self) -> Answer:
        """Take everything; the answer names the bundle."""
        order = self._order
        told = stacks.Stacks(b"", "not asked")
        with self._step("stacks") as step:
            told = self._stacks()
            self._files["stacks.txt"] = told.text or self._own_report(told.problem)
            step.problem = told.problem
        found = summary.NOTHING_FOUND
        with self._step("findings"):
            text = told.text.decode("utf-8", "replace")
            found = summary.findings(order, text, told.problem, self._wchan(told.state))
        fields = summary.reason_fields(order, found, self._boot_id())
        with self._step("memory"):
            self._files["reason.json"] = _json(fields)
            self._files["status.json"] = _json(order.status)
            self._files["beats.jsonl"] = b"".join(
                _json_line({"arrived_at": at, **asdict(beat)}) for at, beat in order.beats
            )
            self._files["output.tail"] = order.output_tail
        with self._step("recording"):
            self._files["recording.jsonl.gz"] = order.recording()
        first = None if self.disk_problem else self._begin_writing(dict(self._files), finish=False)
        written = set(self._files)
        self._look_around()
        if first is not None:
            self._end_writing(first, self._write_by)
        with self._step("summary"):
            text = summary.summary(order, fields, found, self._troubles)
            self._files["summary.txt"] = text.encode("utf-8", "replace")
        self._files["manifest.json"] = _json(
            {"format": 1, "took_s": round(time.monotonic() - self._begun_at, 4), "steps": self._steps}
        )
        if not self.disk_problem:
            rest = {name: content for name, content in self._files.items() if name not in written}
            last = self._begin_writing(rest, finish=True)
            if last is not None:
                self._end_writing(last, max(self._write_by, time.monotonic() + _LEAST_WRITING_S / 2))
        message = self._keep_in_memory() if self.disk_problem else ""
        notes = [note for note in (message, told.problem and f"no stacks: {told.problem}") if note]
        return Answer(
            "" if self.disk_problem and not message.startswith("kept") else order.name,
            "; ".join(notes),
            sum(map(len, self._files.values())),
            found.stalled_at,
            found.signature,
            tuple(self.stuck),
        )

    def _stacks(self) -> stacks.Stacks:
        order = self._order
        if order.post_mortem:
            text = b"" if order.stacks_fd is None else stacks.left_behind(order.stacks_fd)
            return stacks.Stacks(text, "" if text else "the worker left none")
        opened = stacks.open_stacks(order.pid) if order.stacks_fd is None else None
        fd = order.stacks_fd if opened is None else opened
        return stacks.ask(order.pid, order.pidfd, fd, order.victim_until)

    def _own_report(self, problem: str) -> bytes:
        """Instead of fresh stacks, what the worker itself told of its loop while it stood."""
        told = f"(no stacks: {problem})\n"
        for at, beat in reversed(self._order.beats):
            if beat.stall_stack:
                age_s = self._order.monotonic_s - at
                told += f"\nThe worker's own report of its loop, {age_s:.1f} s before:\n{beat.stall_stack}\n"
                break
        return told.encode("utf-8", "replace")

    def _look_around(self) -> None:
        """Take what the kernel knows, the costly part of it beside the rest."""
        order = self._order
        costly: Apart | None = None
        if not order.post_mortem:
            with suppress(HostError, OSError):
                costly = Apart(lambda tell: victim.costly(order.pid, tell))
            with self._step("process"):
                self._files["process.txt"] = victim.cheap(order.pid).encode("utf-8", "backslashreplace")
        with self._step("cgroup"):
            self._files["cgroup.txt"] = victim.cgroup(order.cgroup_path).encode()
        with self._step("pressure"):
            self._files["pressure.txt"] = node_facts.pressure().encode()
        with self._step("kernel"):
            deadline_at = min(time.monotonic() + _KERNEL_LOG_S, order.answer_by)
            self._files["kernel.log"] = b"(not to be had: /dev/kmsg cannot be read)\n"
            self._files["kernel.log"] = node_facts.kernel_log(order.monotonic_s, deadline_at).encode()
        if costly is not None:
            with self._step("process-details") as step:
                until = min(time.monotonic() + _COSTLY_S, max(order.victim_until, time.monotonic()))
                result = self._joined(costly, until)
                self._files["process.txt"] = self._files.get("process.txt", b"") + result.content
                step.problem = result.problem

    # Writing

    def _begin_writing(self, files: dict[str, bytes], *, finish: bool) -> Apart | None:
        order = self._order

        def write(_tell: Callable[[bytes], None]) -> None:
            try:
                bundle_files.write_files(order.bundles_dir, order.name, files)
                if finish:
                    bundle_files.finish(order.bundles_dir, order.name)
            except OSError:
                # What is kept in memory is whole: this part would only fill a full disk.
                bundle_files.remove(f"{order.bundles_dir}/{UNFINISHED}{order.name}")
                raise

        try:
            return Apart(write)
        except (HostError, OSError) as error:
            self.disk_problem = str(error)
            return None

    def _end_writing(self, writing: Apart, until: float) -> None:
        result = self._joined(writing, until, on_disk=True)
        if result.problem:
            self.disk_hangs = result.problem == "not done in time"
            self.disk_problem = "the disk hangs" if self.disk_hangs else result.problem

    def _keep_in_memory(self) -> str:
        order = self._order
        small = {name: bundle_files.capped(name, content) for name, content in self._files.items()}
        small["fallback.txt"] = f"In memory only, and cut, because: {self.disk_problem}\n".encode()
        try:
            bundle_files.write_files(order.fallback_dir, order.name, small)
            bundle_files.finish(order.fallback_dir, order.name)
        except OSError as error:
            bundle_files.remove(f"{order.fallback_dir}/{UNFINISHED}{order.name}")
            return f"no bundle: {self.disk_problem}; {error}"
        return f"kept in memory only ({order.fallback_dir}): {self.disk_problem}"

    # Steps

    def _step(self, name: str) -> _Step:
        return _Step(name, self._steps, self._troubles)

    def _joined(self, apart: Apart, until: float, *, on_disk: bool = False) -> ApartResult:
        result = apart.join(until)
        if result.stuck is not None:
            self.stuck.append(replace(result.stuck, on_disk=on_disk))
        return result

    def _wchan(self, state: str) -> str:
        if state == "D":
            with suppress(ProcessLookupError, HostError):
                return procfs.read_wchan(self._order.pid)
        return ""

    def _boot_id(self) -> str:
        with suppress(ProcessLookupError, HostError):
            return procfs.boot_id()
        return ""


class _Step:
    """One step's line in the manifest; what the step raises ends there."""

    def __init__(self, name: str, steps: list[dict[str, object]], troubles: list[str]) -> None:
        self.problem = ""
        self._name = name
        self._steps = steps
        self._troubles = troubles
        self._begun_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if error is not None:
            self.problem = str(error) or repr(error)
        outcome = "timeout" if "in time" in self.problem else "failed" if self.problem else "ok"
        took_ms = round((time.monotonic() - self._begun_at) * 1000, 2)
        self._steps.append({"step": self._name, "outcome": outcome, "took_ms": took_ms, "why": self.problem})
        if self.problem:
            self._troubles.append(f"{self._name}: {self.problem}")
        return isinstance(error, Exception)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n").encode("utf-8", "replace")


def _json_line(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, default=str) + "\n").encode("utf-8", "replace")
