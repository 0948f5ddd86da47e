"""The loop's side of disposable probes: ask, wait at most a deadline, and know what never came back.

`ProbePool.run` always answers in time. A child that overran is a fact that is kept: it counts against its key
and the total until it is really gone, and above the caps no further one is started, so a hung driver costs a
bounded number of processes. A probe server that dies or hangs is replaced; its stuck children stay counted.

Knows no GPU, no condition, no event: callers read `ProbeResult` and `census()`. Single-threaded: the loop's.
"""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.telemetry.probe_contract import FRAME_LIMIT_BYTES, OUTPUT_LIMIT_BYTES, UnknownReason
from agent.telemetry.probe_launch import LaunchedServer, launch_in_thread, launch_probe_server, see_off
from agent.telemetry.probe_result import ProbeResult, ProbeUnknown, ProbeValue

_FORK_TIMEOUT_S = 10.0  # a fork takes 1 ms; a server that is silent this long is not coming back
_STABLE_AFTER_S = 60.0
_BACKOFF_FIRST_S = 0.2
_BACKOFF_CEILING_S = 30.0


@dataclass(frozen=True, slots=True)
class ProbeCaps:
    """How many children may be out.

    Attributes:
        overrun_per_key: past their deadline and not gone, for one key.
        overrun_total: the same over all keys.
        running: within their deadline; more wait their turn.
    """

    overrun_per_key: int = 2
    overrun_total: int = 8
    running: int = 8


@dataclass(frozen=True, slots=True)
class ProbeCensus:
    """What is out and what was, at one moment.

    Attributes:
        running: children within their deadline.
        overrun: children past it and not gone, by key.
        stuck: of those, the ones that SIGKILL didn't end (D state), by key.
        started_total: children forked so far.
        overran_total: children that passed their deadline so far.
        late_total: children that answered after their deadline, to nobody.
        server_starts_total: probe servers started so far.
        is_server_up: whether a probe can be asked now.
    """

    running: int
    overrun: Mapping[str, int]
    stuck: Mapping[str, int]
    started_total: int
    overran_total: int
    late_total: int
    server_starts_total: int
    is_server_up: bool


@dataclass(slots=True, eq=False)
class _Child:
    number: int
    key: str
    answer: asyncio.Future[ProbeResult]
    parts: list[Any] = field(default_factory=list)
    text: str = ""
    output_length: int = 0
    pid: int | None = None
    start_ticks: int | None = None
    pidfd: int | None = None  # opened only when the server is gone: until then it tells of the end
    is_overrun: bool = False
    is_stuck: bool = False
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


class ProbePool:
    """Runs probes by name in disposable children.

    Args:
        first: a server launched before the agent had threads; None starts one on `start`.
        launch: starts a replacement; runs in a thread of its own.
        caps: bounds on children that are out.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        first: LaunchedServer | None = None,
        launch: Callable[[], LaunchedServer] = launch_probe_server,
        caps: ProbeCaps | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first = first
        self._launch = launch
        self._caps = caps or ProbeCaps()
        self._clock = clock
        self._server: LaunchedServer | None = None
        self._server_up_at = 0.0
        self._is_ready = asyncio.Event()
        self._is_closed = False
        self._backoff_s = _BACKOFF_FIRST_S
        self._relaunch: asyncio.Task[None] | None = None
        self._turns = asyncio.Semaphore(self._caps.running)
        self._children: dict[int, _Child] = {}
        self._last_number = 0
        self._started_total = 0
        self._overran_total = 0
        self._late_total = 0
        self._server_starts_total = 0

    async def start(self) -> None:
        """Takes over the first server, or begins to start one; doesn't wait for it."""
        if self._first is not None:
            self._adopt(self._first)
            self._first = None
        else:
            self._relaunch = asyncio.create_task(self._start_server(0.0))

    async def close(self, grace_s: float = 1.0) -> None:
        """Ends the server and with it the children; returns after at most `grace_s` and a kill."""
        self._is_closed = True
        if self._relaunch is not None:
            self._relaunch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._relaunch
        server = self._server
        if server is not None:
            self._drop_server("the pool is closing")
            await see_off(server, grace_s)
        for child in list(self._children.values()):
            self._forget(child)

    async def run(
        self,
        probe: str,
        args: Mapping[str, Any],
        deadline_s: float,
        *,
        key: str | None = None,
        patience_s: float = 0.0,
    ) -> ProbeResult:
        """Gives the probe's answer, or why there is none, within `deadline_s`.

        Args:
            probe: a name in the server's table.
            args: JSON arguments.
            deadline_s: from now; past it the answer is `timeout` and the child counts as overrun.
            key: what overruns are counted under, e.g. one GPU; the probe's name when not given.
            patience_s: how much longer the child may live. A driver may be slow rather than dead, and a kill
                in the middle of its work can be the harm.
        """
        key = key or probe
        deadline_at = self._clock() + deadline_s
        if self._is_at_cap(key):
            return ProbeUnknown(UnknownReason.STUCK_CAP, f"too many probes of {key} have not come back")
        try:
            async with asyncio.timeout(deadline_s):
                await self._turns.acquire()
        except TimeoutError:
            return ProbeUnknown(UnknownReason.BUSY, f"{self._caps.running} probes are running")
        try:
            async with asyncio.timeout(max(0.0, deadline_at - self._clock())):
                await self._is_ready.wait()
        except TimeoutError:
            self._turns.release()
            return ProbeUnknown(UnknownReason.SERVER_DOWN, "the probe server is not up")
        except BaseException:
            self._turns.release()
            raise
        child = self._ask(probe, args, key, deadline_at, patience_s)
        # Shielded: a caller that gives up early takes neither the child's deadline nor its turn along.
        return await asyncio.shield(child.answer)

    def charge_to(self, probe_id: int | None, key: str) -> None:
        """Counts an overrun child under another key, when its parts told which device it hangs in."""
        child = None if probe_id is None else self._children.get(probe_id)
        if child is not None:
            child.key = key

    def census(self) -> ProbeCensus:
        """Counts what is out now."""
        children = self._children.values()
        return ProbeCensus(
            running=sum(not c.is_overrun for c in children),
            overrun=dict(Counter(c.key for c in children if c.is_overrun)),
            stuck=dict(Counter(c.key for c in children if c.is_stuck)),
            started_total=self._started_total,
            overran_total=self._overran_total,
            late_total=self._late_total,
            server_starts_total=self._server_starts_total,
            is_server_up=self._is_ready.is_set(),
        )

    # --- one child -----------------------------------------------------------------------------------------

    def _is_at_cap(self, key: str) -> bool:
        overrun = [child.key for child in self._children.values() if child.is_overrun]
        return len(overrun) >= self._caps.overrun_total or overrun.count(key) >= self._caps.overrun_per_key

    def _ask(
        self, probe: str, args: Mapping[str, Any], key: str, deadline_at: float, patience_s: float
    ) -> _Child:
        loop = asyncio.get_running_loop()
        self._last_number += 1
        child = _Child(self._last_number, key, loop.create_future())
        child.answer.add_done_callback(lambda _answer: self._turns.release())
        left_s = max(0.0, deadline_at - self._clock())
        request = {
            "id": child.number,
            "probe": probe,
            "args": dict(args),
            "kill_after_s": left_s + patience_s,
        }
        self._children[child.number] = child
        try:
            self._channel_send(json.dumps(request).encode())
        except BlockingIOError:
            self._settle(child, UnknownReason.BUSY, "the probe server is not reading")
            self._forget(child)
        except OSError as error:
            self._settle(child, UnknownReason.SERVER_DOWN, str(error))
            self._forget(child)
        else:
            child.timers = [
                loop.call_later(left_s, self._on_deadline, child),
                loop.call_later(_FORK_TIMEOUT_S, self._on_fork_timeout, child),
            ]
        return child

    def _channel_send(self, frame: bytes) -> None:
        if self._server is None:
            raise ConnectionError("the probe server is not up")
        self._server.channel.send(frame)

    def _on_deadline(self, child: _Child) -> None:
        self._drain()  # after a stall of our own loop the answer may lie in the socket
        if child.answer.done() or child.number not in self._children:
            return
        if child.pid is None:
            self._settle(child, UnknownReason.SERVER_DOWN, "the probe server did not fork in time")
            return
        child.is_overrun = True
        self._overran_total += 1
        self._settle(child, UnknownReason.TIMEOUT, f"{child.key} did not answer by its deadline")

    def _on_fork_timeout(self, child: _Child) -> None:
        self._drain()
        if child.pid is None and child.number in self._children:
            self._drop_server(f"no fork within {_FORK_TIMEOUT_S} s", is_hung=True)

    def _settle(self, child: _Child, reason: UnknownReason, detail: str) -> None:
        if not child.answer.done():
            child.answer.set_result(ProbeUnknown(reason, detail, tuple(child.parts), child.number))

    def _forget(self, child: _Child) -> None:
        for timer in child.timers:
            timer.cancel()
        if child.pidfd is not None:
            asyncio.get_running_loop().remove_reader(child.pidfd)
            os.close(child.pidfd)
            child.pidfd = None
        self._settle(child, UnknownReason.SERVER_DOWN, "the pool is closing")
        self._children.pop(child.number, None)

    # --- what the server tells -----------------------------------------------------------------------------

    def _drain(self) -> None:
        while (server := self._server) is not None:
            try:
                frame = server.channel.recv(FRAME_LIMIT_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._drop_server(f"channel: {error.strerror}")
                return
            if not frame:
                self._drop_server("it closed the channel")
                return
            self._take(json.loads(frame))

    def _take(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "ready":
            self._is_ready.set()
            return
        child = self._children.get(event["id"])
        if child is None:
            return
        match kind:
            case "started":
                self._started_total += 1
                child.pid = event["pid"]
                child.start_ticks = _start_ticks(event["pid"])
            case "output":
                self._take_output(child, event["text"], event["lasted_s"])
            case "stuck":
                child.is_stuck = True
            case "refused":
                self._settle(child, UnknownReason.ERROR, event["detail"])
                self._forget(child)
            case "exited":
                self._settle(child, UnknownReason.CRASHED, _describe_status(event["status"]))
                self._forget(child)

    def _take_output(self, child: _Child, text: str, lasted_s: float) -> None:
        child.output_length += len(text)
        if child.output_length > 2 * OUTPUT_LIMIT_BYTES:
            return
        *lines, child.text = (child.text + text).split("\n")
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                self._settle(child, UnknownReason.ERROR, "the answer is not JSON")
                return
            if "part" in message:
                child.parts.append(message["part"])
                continue
            if child.answer.done():
                self._late_total += 1
                return
            end = message["end"]
            if "value" in end:
                child.answer.set_result(ProbeValue(end["value"], lasted_s, tuple(child.parts)))
            else:
                self._settle(child, UnknownReason(end["reason"]), end["detail"])

    # --- the server's life ---------------------------------------------------------------------------------

    def _adopt(self, server: LaunchedServer) -> None:
        self._server = server
        self._server_up_at = self._clock()
        self._server_starts_total += 1
        asyncio.get_running_loop().add_reader(server.channel.fileno(), self._drain)

    def _drop_server(self, why: str, *, is_hung: bool = False) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        self._is_ready.clear()
        loop = asyncio.get_running_loop()
        loop.remove_reader(server.channel.fileno())
        server.channel.close()
        for child in list(self._children.values()):
            self._settle(child, UnknownReason.SERVER_DOWN, f"the probe server is gone: {why}")
            self._watch_orphan(child)
        if self._is_closed:
            return
        if self._clock() - self._server_up_at > _STABLE_AFTER_S:
            self._backoff_s = _BACKOFF_FIRST_S
        pause_s, self._backoff_s = self._backoff_s, min(2 * self._backoff_s, _BACKOFF_CEILING_S)
        self._relaunch = asyncio.create_task(
            self._start_server(pause_s, former=server, grace_s=0.0 if is_hung else 1.0)
        )

    def _watch_orphan(self, child: _Child) -> None:
        """Kills what the dead server left behind, and keeps counting it while it doesn't die."""
        if child.pid is None or child.pidfd is not None:
            if child.pid is None:
                self._forget(child)
            return
        try:
            child.pidfd = os.pidfd_open(child.pid)
        except OSError:
            self._forget(child)
            return
        if child.start_ticks is None or _start_ticks(child.pid) != child.start_ticks:
            self._forget(child)  # another process by now
            return
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        for timer in child.timers:
            timer.cancel()
        child.is_overrun = True
        asyncio.get_running_loop().add_reader(child.pidfd, self._forget, child)

    async def _start_server(
        self, pause_s: float, former: LaunchedServer | None = None, grace_s: float = 1.0
    ) -> None:
        if former is not None:
            await see_off(former, grace_s)
        await asyncio.sleep(pause_s)
        while not self._is_closed:
            try:
                self._adopt(await launch_in_thread(self._launch))
                return
            except OSError:
                await asyncio.sleep(self._backoff_s)
                self._backoff_s = min(2 * self._backoff_s, _BACKOFF_CEILING_S)


def _start_ticks(pid: int) -> int | None:
    """Start time in clock ticks since boot (proc_pid_stat(5) field 22): with the pid, an identity."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123
            return int(stat.read(4096).rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def _describe_status(status: int) -> str:
    if status >= 0:
        return f"the probe exited with {status} and no answer"
    try:
        return f"the probe died of {signal.Signals(-status).name}"
    except ValueError:
        return f"the probe died of signal {-status}"
