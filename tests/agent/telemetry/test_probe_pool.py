"""The probe pool and its server, with probes that hang, crash, flood and cannot be killed."""

import asyncio
import os
import select
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import uvloop

from agent.telemetry import probe_pool
from agent.telemetry.probe_contract import UnknownReason
from agent.telemetry.probe_launch import LaunchedServer, launch_probe_server
from agent.telemetry.probe_pool import ProbeCaps, ProbePool
from agent.telemetry.probe_result import ProbeUnknown, ProbeValue
from tests.support.dead_mount import dead_mount, why_no_dead_mount
from tests.support.processes import spawn_python, wait_until

uvloop.run(asyncio.sleep(0))  # its first loop makes a pipe that it keeps for the process

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")

launch = partial(launch_probe_server, "tests.support.hostile_probes")


@asynccontextmanager
async def running_pool(*, caps: ProbeCaps | None = None) -> AsyncIterator[ProbePool]:
    pool = ProbePool(launch=launch, caps=caps)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


async def until(predicate: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        await asyncio.sleep(0.005)


def server_of(pool: ProbePool) -> LaunchedServer:
    assert pool._server is not None
    return pool._server


async def test_a_probe_gives_its_value_and_how_long_it_took() -> None:
    async with running_pool() as pool:
        result = await pool.run("echo", {"value": {"deep": [1, "two", None]}}, 20)
        assert isinstance(result, ProbeValue)
        assert result.value == {"deep": [1, "two", None]}
        assert 0 < result.duration_s < 20


def test_it_works_on_uvloop_as_on_asyncio() -> None:
    async def ask() -> object:
        async with running_pool() as pool:
            return await pool.run("echo", {"value": 7}, 20)

    answer = uvloop.run(ask())
    assert isinstance(answer, ProbeValue)
    assert answer.value == 7


async def test_a_child_inherits_nothing_but_its_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/somewhere")
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("SOME_TOKEN", "secret")
    leaked = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        async with running_pool() as pool:
            result = await pool.run("inheritance", {}, 20)
    finally:
        os.close(leaked)
    assert isinstance(result, ProbeValue)
    found = result.value
    assert not {"NOTIFY_SOCKET", "LISTEN_FDS", "SOME_TOKEN"} & set(found["variables"])
    assert [target.partition(":")[0] for target in found["descriptors"]] == ["pipe"]
    assert found["parent_death_signal"] == signal.SIGKILL
    assert found["threads"] == 1
    assert found["modules_of_agent"] == []
    assert found["has_default_term"]


async def test_an_overrun_answers_at_its_deadline_and_counts_until_the_child_is_gone() -> None:
    async with running_pool() as pool:
        await pool.run("echo", {"value": 0}, 20)
        result = await pool.run("sleep", {"for_s": 60}, 0.5, key="gpu:0", patience_s=60)
        assert isinstance(result, ProbeUnknown)
        assert (result.reason, result.parts) == (UnknownReason.TIMEOUT, ("asleep",))
        assert pool.census().overrun == {"gpu:0": 1}
        child = next(child for child in pool._children.values() if child.is_overrun)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        await until(lambda: not pool.census().overrun, "the count to fall")


async def test_at_the_end_of_its_patience_a_child_is_killed() -> None:
    async with running_pool() as pool:
        await pool.run("echo", {"value": 0}, 20)
        result = await pool.run("sleep", {"for_s": 60}, 0.3)
        assert isinstance(result, ProbeUnknown)
        await until(lambda: not pool._children, "the kill")


async def test_above_the_caps_no_further_child_is_started() -> None:
    async with running_pool(caps=ProbeCaps(overrun_per_key=1, overrun_total=2)) as pool:
        await pool.run("echo", {"value": 0}, 20)
        slow = partial(pool.run, "sleep", {"for_s": 60}, 0.3, patience_s=60)
        await slow(key="a")
        started = pool.census().started_total
        refused = await slow(key="a")
        assert isinstance(refused, ProbeUnknown)
        assert refused.reason is UnknownReason.STUCK_CAP
        await slow(key="b")
        elsewhere = await slow(key="c")
        assert isinstance(elsewhere, ProbeUnknown)
        assert elsewhere.reason is UnknownReason.STUCK_CAP
        assert pool.census().started_total == started + 1


async def test_an_overrun_can_be_charged_to_the_device_it_hangs_in() -> None:
    async with running_pool() as pool:
        result = await pool.run("sleep", {"for_s": 60}, 3, key="batch", patience_s=60)
        assert isinstance(result, ProbeUnknown)
        pool.charge_to(result.probe_id, "gpu:1")
        assert pool.census().overrun == {"gpu:1": 1}


@pytest.mark.parametrize(
    ("probe", "args", "reason", "detail"),
    [
        ("die", {"signal": signal.SIGSEGV}, UnknownReason.CRASHED, "the probe died of SIGSEGV"),
        ("die", {"signal": signal.SIGABRT}, UnknownReason.CRASHED, "the probe died of SIGABRT"),
        ("leave", {"status": 3}, UnknownReason.CRASHED, "the probe exited with 3 and no answer"),
        ("fail", {}, UnknownReason.NO_DEVICE, "nothing here"),
        ("raise", {}, UnknownReason.ERROR, "RuntimeError: oh no"),
        ("flood", {}, UnknownReason.ERROR, "answer is longer than 131072 bytes"),
        ("garble", {}, UnknownReason.ERROR, "the answer is not JSON"),
        ("nonesuch", {}, UnknownReason.ERROR, "no probe named nonesuch"),
    ],
)
async def test_each_way_to_fail_has_its_reason(
    probe: str, args: dict[str, int], reason: UnknownReason, detail: str
) -> None:
    async with running_pool() as pool:
        result = await pool.run(probe, args, 20)
        assert isinstance(result, ProbeUnknown)
        assert (result.reason, result.detail) == (reason, detail)
        after = await pool.run("echo", {"value": "still here"}, 20)
        assert isinstance(after, ProbeValue)


async def test_a_hundred_probes_at_once_wait_their_turn() -> None:
    async with running_pool(caps=ProbeCaps(running=4)) as pool:
        results = await asyncio.gather(*(pool.run("echo", {"value": n}, 60) for n in range(100)))
        assert [r.value for r in results if isinstance(r, ProbeValue)] == list(range(100))
        await until(lambda: not pool._children, "the children to be reaped")


async def test_the_loop_ticks_on_while_a_probe_hangs() -> None:
    async with running_pool() as pool:
        await pool.run("echo", {"value": 0}, 20)
        asked = asyncio.create_task(pool.run("sleep", {"for_s": 60}, 1.0))
        ticks = 0
        while not asked.done():
            await asyncio.sleep(0.01)
            ticks += 1
        assert ticks > 20


async def test_an_answer_that_came_during_a_stall_of_our_loop_is_no_overrun() -> None:
    async with running_pool() as pool:
        await pool.run("echo", {"value": 0}, 20)
        asked = asyncio.create_task(pool.run("echo", {"value": "in time"}, 0.5))
        await asyncio.sleep(0)  # the request is sent
        time.sleep(1.0)  # noqa: ASYNC251 - the stall
        result = await asked
        assert isinstance(result, ProbeValue)
        assert pool.census().overran_total == 0


async def test_a_cancelled_caller_leaves_the_child_counted() -> None:
    async with running_pool() as pool:
        await pool.run("echo", {"value": 0}, 20)
        asked = asyncio.create_task(pool.run("sleep", {"for_s": 60}, 0.5, key="k", patience_s=60))
        await until(lambda: pool.census().started_total == 2, "the fork")
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await until(lambda: pool.census().overrun == {"k": 1}, "the overrun to be counted")


async def test_a_killed_server_is_replaced_and_its_child_killed() -> None:
    async with running_pool() as pool:
        result = await pool.run("kill-server", {}, 30)
        assert isinstance(result, ProbeUnknown)
        assert result.reason is UnknownReason.SERVER_DOWN
        after = await pool.run("echo", {"value": "back"}, 30)
        assert isinstance(after, ProbeValue)
        assert pool.census().server_starts_total == 2
        await until(lambda: not pool._children, "the orphan to die")


async def test_a_hung_server_is_killed_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_pool() as pool:
        await pool.run("echo", {"value": 0}, 30)
        monkeypatch.setattr(probe_pool, "_FORK_TIMEOUT_S", 0.5)
        signal.pidfd_send_signal(server_of(pool).pidfd, signal.SIGSTOP)
        result = await pool.run("echo", {"value": 0}, 30)
        assert isinstance(result, ProbeUnknown)
        assert result.reason is UnknownReason.SERVER_DOWN
        monkeypatch.undo()
        after = await pool.run("echo", {"value": "back"}, 30)
        assert isinstance(after, ProbeValue)


async def test_without_a_server_the_answer_comes_by_the_deadline_and_is_no_driver_verdict() -> None:
    def refuse() -> LaunchedServer:
        raise OSError("no interpreter")

    pool = ProbePool(launch=refuse)
    await pool.start()
    result = await pool.run("echo", {"value": 0}, 0.3)
    assert isinstance(result, ProbeUnknown)
    assert result.reason is UnknownReason.SERVER_DOWN
    await pool.close()


async def test_a_launch_that_never_returns_holds_up_neither_answers_nor_close() -> None:
    release = threading.Event()

    def hang() -> LaunchedServer:
        release.wait(60)
        raise OSError("released")

    pool = ProbePool(launch=hang)
    await pool.start()
    try:
        result = await pool.run("echo", {"value": 0}, 0.3)
        assert isinstance(result, ProbeUnknown)
        await pool.close()
    finally:
        release.set()


@pytest.mark.root
@pytest.mark.slow
async def test_a_child_that_cannot_be_killed_is_reported_capped_and_forgotten_when_it_goes(
    tmp_path: Path,
) -> None:
    reason = why_no_dead_mount()
    if reason is not None:
        pytest.skip(reason)
    async with running_pool(caps=ProbeCaps(overrun_per_key=2)) as pool:
        with dead_mount(tmp_path / "dead") as path:
            await pool.run("echo", {"value": 0}, 20)
            touch = partial(pool.run, "touch", {"path": f"{path}/file"}, 0.3, key="disk")
            for _ in range(2):
                result = await touch()
                assert isinstance(result, ProbeUnknown)
                assert result.reason is UnknownReason.TIMEOUT
            await until(lambda: pool.census().stuck == {"disk": 2}, "both to be seen in D state")
            capped = await touch()
            assert isinstance(capped, ProbeUnknown)
            assert capped.reason is UnknownReason.STUCK_CAP
            others = await pool.run("echo", {"value": "fine"}, 20)
            assert isinstance(others, ProbeValue)
            # The server dies; what is stuck outlives it and stays counted.
            signal.pidfd_send_signal(server_of(pool).pidfd, signal.SIGKILL)
            await until(lambda: pool.census().server_starts_total == 2, "the second server")
            assert pool.census().overrun == {"disk": 2}
        await until(lambda: not pool.census().overrun, "the count to fall when they go")


def test_the_server_and_its_children_end_with_the_agent() -> None:
    code = """
import asyncio, sys
from functools import partial
from agent.telemetry.probe_launch import launch_probe_server
from agent.telemetry.probe_pool import ProbePool
async def main():
    pool = ProbePool(launch=partial(launch_probe_server, "tests.support.hostile_probes"))
    await pool.start()
    await pool.run("echo", {"value": 0}, 20)
    asyncio.create_task(pool.run("sleep", {"for_s": 600}, 600))
    while pool.census().started_total < 2:
        await asyncio.sleep(0.01)
    print(pool._server.process.pid, next(iter(pool._children.values())).pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    with spawn_python(code, cwd=Path(__file__).parents[3]) as agent:
        pids = [int(word) for word in agent.read_line().split()]
        pidfds = [os.pidfd_open(pid) for pid in pids]
        try:
            agent.send_signal(signal.SIGKILL)
            wait_until(lambda: all(_is_gone(pidfd) for pidfd in pidfds), 20, "server and child to end")
        finally:
            for pidfd in pidfds:
                os.close(pidfd)


def _is_gone(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])
