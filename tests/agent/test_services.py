"""Services run apart, come again after every failure, and cannot look alive by starting."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from agent.services import Probation, Progress, Service, Services, pause
from agent.vitals.config import VitalsConfig
from agent.vitals.thread import Vitals, start_vitals

PATIENCE_S = 20.0

Run = Callable[[Progress], Awaitable[None]]


@pytest.fixture
def vitals(leaves_nothing_behind: None) -> Iterator[Vitals]:
    started = start_vitals(VitalsConfig())
    yield started
    started.stop()


class Stage:
    """Runs services, and knows what they have touched."""

    def __init__(self, vitals: Vitals, *services: Service) -> None:
        self.vitals = vitals
        self.services = Services(vitals, services)
        self.stop = asyncio.Event()
        self.running = asyncio.Event()
        self.task = asyncio.create_task(self.services.run(self.stop, self.running.set))

    def touched_at(self, name: str) -> float:
        return next(point.touched_at for point in self.vitals._points._points if point.name == name)

    def is_overdue(self, name: str) -> bool:
        seen, _ = self.vitals._observe()
        return next(point.is_overdue for point in seen.progress if point.name == name)

    async def until(self, is_so: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        await self.running.wait()
        while not is_so():
            assert time.monotonic() < deadline, f"no {what}"
            await asyncio.sleep(0.005)

    async def end(self) -> None:
        self.stop.set()
        await asyncio.wait_for(self.task, PATIENCE_S)


def service(name: str, run: Run, deadline_s: float = 1.0, *, critical: bool = False) -> Service:
    return Service(name=name, run=run, deadline_s=deadline_s, critical=critical)


async def works(progress: Progress) -> None:
    while True:
        progress.touch()
        await asyncio.sleep(0.01)


async def test_a_failing_service_comes_again_and_takes_nobody_down(vitals: Vitals) -> None:
    runs = []

    async def fails(_: Progress) -> None:
        runs.append(1)
        raise ValueError("for a test")

    stage = Stage(vitals, service("fails", fails, 0.3), service("works", works))
    await stage.until(lambda: len(runs) >= 4, "four runs")

    record = stage.services.records["fails"]
    assert record.last_failure == "ValueError: for a test"
    assert record.failures_total >= 3
    assert stage.services.records["works"].failures_total == 0
    assert stage.services.records["works"].runs
    assert time.monotonic() - stage.touched_at("works") < 1.0
    await stage.end()


async def returns(_: Progress) -> None:
    await asyncio.sleep(0)


async def cancels_itself(_: Progress) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(5)


async def raises_cancelled(_: Progress) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (returns, "it returned"),
        (cancels_itself, "it was cancelled from within"),
        (raises_cancelled, "it was cancelled from within"),
    ],
)
async def test_a_service_that_ends_without_being_told_to_comes_again(
    vitals: Vitals, run: Run, reason: str
) -> None:
    stage = Stage(vitals, service("ends", run, 0.3))
    await stage.until(lambda: stage.services.records["ends"].failures_total >= 3, "three ends")

    assert stage.services.records["ends"].last_failure == reason
    await stage.end()


async def test_a_critical_service_that_starts_and_dies_for_ever_is_a_stall(vitals: Vitals) -> None:
    async def touches_and_dies(progress: Progress) -> None:
        progress.touch()
        await asyncio.sleep(0.01)
        progress.touch()
        raise ValueError("for a test")

    stage = Stage(vitals, service("dies", touches_and_dies, 1.0, critical=True))
    await stage.until(lambda: stage.is_overdue("dies"), "the point to be overdue")

    _, health = vitals._observe()
    assert health.http_status == 503
    assert stage.services.records["dies"].failures_total >= 3
    await stage.end()


async def test_a_critical_service_that_failed_once_is_no_stall(vitals: Vitals) -> None:
    started_at: list[float] = []

    async def fails_once(progress: Progress) -> None:
        started_at.append(time.monotonic())
        if len(started_at) == 1:
            raise ValueError("for a test")
        await works(progress)

    stage = Stage(vitals, service("fails-once", fails_once, 2.0, critical=True))
    await stage.until(lambda: len(started_at) == 2, "second run")
    await stage.until(lambda: stage.touched_at("fails-once") > started_at[1], "touch that counts")

    # Half of the deadline: it began just before the run could note its start.
    assert stage.touched_at("fails-once") - started_at[1] >= 0.9
    await stage.end()


async def test_all_services_have_ended_when_the_run_has(vitals: Vitals) -> None:
    ended = []

    async def notes_its_end(progress: Progress) -> None:
        try:
            await works(progress)
        finally:
            await asyncio.sleep(0.05)
            ended.append(1)

    stage = Stage(vitals, *(service(f"s{n}", notes_its_end) for n in range(3)))
    await stage.running.wait()
    await stage.end()

    assert len(ended) == 3
    seen, _ = vitals._observe()
    assert seen.progress == ()


def test_touches_count_only_after_the_probation(vitals: Vitals) -> None:
    with vitals.progress_point("point", 60.0) as point:
        before = point.touched_at
        Probation(point, 60.0).touch()
        assert point.touched_at == before
        Probation(point, 0.0).touch()
        assert point.touched_at > before


class Touches:
    def __init__(self) -> None:
        self.total = 0

    def touch(self) -> None:
        self.total += 1


async def test_a_pause_is_progress_and_may_be_ended(leaves_nothing_behind: None) -> None:
    touches, wake = Touches(), asyncio.Event()
    assert await pause(0.01, touches, wake) is False
    assert touches.total >= 1
    wake.set()
    assert await pause(60.0, touches, wake) is True
    assert await pause(0.0, touches) is False
    assert await pause(-1.0, touches) is False


async def test_a_cancelled_run_ends_although_its_services_take_cancellation_for_a_failure(
    vitals: Vitals,
) -> None:
    running = asyncio.Event()
    services = Services(vitals, [service("one", works), service("two", works)])
    run = asyncio.create_task(services.run(asyncio.Event(), running.set))
    await running.wait()

    run.cancel()
    ended, _ = await asyncio.wait([run], timeout=10)

    assert run in ended
    assert run.cancelled()
