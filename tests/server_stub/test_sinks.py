"""Sinks: at least once and in order, whatever fails; the webhook against a real receiver; one that others install."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from nanny.common.backoff import Backoff
from server_stub import events as log
from server_stub.changes import EVENTS, Changes
from server_stub.config import ServerConfig
from server_stub.log import configure
from server_stub.metrics import Metrics
from server_stub.sink_courier import SinkCourier
from server_stub.sink_errors import EventsRefused, SinkUnavailable
from server_stub.sinks import Sink, SinkContext, installed
from server_stub.store import events
from server_stub.store.engine import Database
from server_stub.store.tables import SinkRow
from server_stub.webhook import Webhook, webhook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

PATIENCE_S = 30.0
QUICK = Backoff(base_s=0.001, ceiling_s=0.002)


class Recorder:
    """A sink that does what the test says, and keeps what it took."""

    def __init__(self, name: str = "recorder") -> None:
        self.name = name
        self.taken: list[int] = []
        self.offered: list[list[int]] = []
        self.closed = False
        self.refuses: Callable[[list[int]], BaseException | None] = lambda _seqs: None
        self.only: str = ""
        self.hangs = False

    def wants(self, event_type: str) -> bool:
        return event_type.startswith(self.only)

    async def deliver(self, events: Sequence[dict[str, Any]]) -> None:
        seqs = [event["seq"] for event in events]
        self.offered.append(seqs)
        if self.hangs:
            await asyncio.sleep(3600)
        error = self.refuses(seqs)
        if error is not None:
            raise error
        self.taken += seqs

    async def close(self) -> None:
        self.closed = True


class Stage:
    """A log, and couriers from it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.changes = Changes(1)
        self.metrics = Metrics()

    async def happen(self, *types: str) -> None:
        async with self.database.writing() as session:
            told: list[dict[str, Any]] = [
                {"wall_at": 1.0, "type": type_, "node_id": None, "detail": {}} for type_ in types
            ]
            await log.append_many(session, told)
        self.changes.mark([EVENTS])

    @asynccontextmanager
    async def courier(self, sink: Sink, **changed: Any) -> AsyncIterator[None]:
        courier = SinkCourier(
            sink,
            database=self.database,
            changes=self.changes,
            log=configure("critical"),
            metrics=self.metrics,
            **({"backoff": QUICK} | changed),
        )
        await courier.begin()
        task = asyncio.create_task(courier.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def cursor(self, name: str) -> int:
        async with self.database.reading() as session:
            row = await session.get(SinkRow, name)
        return 0 if row is None else row.delivered_seq

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if condition():
                    return
                await asyncio.sleep(0.01)

    async def until_at(self, name: str, seq: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if await self.cursor(name) >= seq:
                    return
                await asyncio.sleep(0.01)


@pytest.fixture
async def stage(database_url: str) -> AsyncIterator[Stage]:
    """A log with one event, behind which new sinks begin."""
    database = await Database.open(database_url)
    made = Stage(database)
    await made.happen("node.created")
    yield made
    await database.close()


async def test_a_sink_gets_what_happens_after_it_was_installed_in_order(stage: Stage) -> None:
    sink = Recorder()
    async with stage.courier(sink):
        await stage.happen("node.state", "node.state")
        await stage.until(lambda: len(sink.taken) == 2)
        await stage.happen("node.state")
        await stage.until_at(sink.name, 4)

    assert sink.taken == [2, 3, 4]
    assert sink.closed
    assert stage.metrics.value("sink_events_total", sink=sink.name, outcome="delivered") == 3


async def test_what_happened_while_the_server_was_away_is_delivered(stage: Stage) -> None:
    async with stage.courier(Recorder()):
        pass
    await stage.happen("node.state", "node.state")

    sink = Recorder()
    async with stage.courier(sink):
        await stage.until_at(sink.name, 3)

    assert sink.taken == [2, 3]


async def test_a_sink_that_fails_gets_the_same_again_until_it_takes_it(stage: Stage) -> None:
    sink = Recorder()
    sink.refuses = lambda _seqs: SinkUnavailable("not now") if len(sink.offered) < 5 else None
    async with stage.courier(sink):
        await stage.happen("node.state")
        await stage.until_at(sink.name, 2)

    assert sink.offered == [[2]] * 5
    assert stage.metrics.value("sink_failures_total", sink=sink.name) == 4


async def test_a_cancellation_out_of_a_sink_is_a_failure_like_others(stage: Stage) -> None:
    sink = Recorder()
    sink.refuses = lambda _seqs: asyncio.CancelledError() if len(sink.offered) < 2 else None
    async with stage.courier(sink):
        await stage.happen("node.state")
        await stage.until_at(sink.name, 2)

    assert sink.taken == [2]


async def test_a_sink_that_hangs_is_given_up_at_its_deadline_and_delays_no_other(stage: Stage) -> None:
    dead, well = Recorder("dead"), Recorder("well")
    dead.hangs = True
    async with stage.courier(dead, deadline_s=0.05), stage.courier(well):
        await stage.happen("node.state")
        await stage.until_at("well", 2)
        await stage.until(lambda: len(dead.offered) > 1)
        dead.hangs = False
        await stage.until_at("dead", 2)

    assert (well.taken, dead.taken) == ([2], [2])


async def test_an_event_that_is_refused_for_good_is_dropped_alone(stage: Stage) -> None:
    sink = Recorder()
    sink.refuses = lambda seqs: EventsRefused("400") if 7 in seqs else None
    async with stage.courier(sink):
        await stage.happen(*["node.state"] * 10)
        await stage.until_at(sink.name, 11)

    assert sink.taken == [2, 3, 4, 5, 6, 8, 9, 10, 11]
    assert sink.offered.count([7]) == 3
    assert stage.metrics.value("sink_events_total", sink=sink.name, outcome="refused") == 1


async def test_a_sink_gets_only_the_types_that_it_wants_and_its_cursor_is_not_written_for_the_others(
    stage: Stage,
) -> None:
    sink = Recorder()
    sink.only = "brake."
    async with stage.courier(sink):
        await stage.happen("node.state", "node.state")
        await stage.until(lambda: stage.metrics.value("sink_events_behind", sink=sink.name) == 0)
        before = await stage.cursor(sink.name)
        await stage.happen("brake.on", "node.state")
        await stage.until_at(sink.name, 5)

    assert (before, sink.taken) == (1, [4])


async def test_what_the_log_dropped_before_a_sink_came_back_is_counted(stage: Stage) -> None:
    async with stage.courier(Recorder()):
        pass
    await stage.happen(*["node.state"] * 9)
    async with stage.database.writing() as session:
        await events.drop_before(session, 8, 99)

    sink = Recorder()
    async with stage.courier(sink):
        await stage.until_at(sink.name, 10)

    assert sink.taken == [8, 9, 10]
    assert stage.metrics.value("sink_events_missed_total", sink=sink.name) == 6


async def test_many_events_come_in_batches_of_bounded_size(stage: Stage) -> None:
    sink = Recorder()
    async with stage.courier(sink):
        await stage.happen(*["node.state"] * 250)
        await stage.until_at(sink.name, 251)

    assert sink.taken == list(range(2, 252))
    assert max(map(len, sink.offered)) <= 100


# The webhook


class Receiver:
    """An HTTP server that answers what the test says."""

    def __init__(self) -> None:
        self.url = ""
        self.statuses: list[int] = []
        self.headers: dict[str, str] = {}
        self.requests: list[tuple[dict[str, str], Any]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append((dict(request.headers), json.loads(await request.read())))
        return web.Response(status=self.statuses.pop(0) if self.statuses else 204, headers=self.headers)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    application = web.Application()
    application.router.add_post("/hook", made.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield made
    await runner.cleanup()


def context(**environ: str) -> Callable[..., SinkContext]:
    def make(**settings: Any) -> SinkContext:
        return SinkContext(settings=ServerConfig(**settings), environ=environ, log=configure("critical"))

    return make


@asynccontextmanager
async def made(configured: SinkContext) -> AsyncIterator[Webhook]:
    sink = webhook(configured)
    assert sink is not None
    yield sink
    await sink.close()


async def test_the_webhook_posts_a_batch_of_cloud_events(receiver: Receiver) -> None:
    async with made(context()(webhook_url=receiver.url)) as sink:
        await sink.deliver([{"specversion": "1.0", "seq": 1}, {"specversion": "1.0", "seq": 2}])
    headers, body = receiver.requests[0]

    assert headers["Content-Type"] == "application/cloudevents-batch+json; charset=utf-8"
    assert "Authorization" not in headers
    assert [event["seq"] for event in body] == [1, 2]


async def test_the_webhook_sends_its_credential(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "webhook-authorization").write_text("Bearer s3cret\n")

    async with made(context(CREDENTIALS_DIRECTORY=str(tmp_path))(webhook_url=receiver.url)) as sink:
        await sink.deliver([{}])

    assert receiver.requests[0][0]["Authorization"] == "Bearer s3cret"


@pytest.mark.parametrize("status", [200, 202, 204])
async def test_any_success_takes_the_batch(receiver: Receiver, status: int) -> None:
    receiver.statuses = [status]
    async with made(context()(webhook_url=receiver.url)) as sink:
        await sink.deliver([{}])


@pytest.mark.parametrize("status", [400, 413, 415, 422])
async def test_answers_about_the_content_refuse_it(receiver: Receiver, status: int) -> None:
    receiver.statuses = [status]
    async with made(context()(webhook_url=receiver.url)) as sink:
        with pytest.raises(EventsRefused):
            await sink.deliver([{}])


@pytest.mark.parametrize("status", [301, 307, 401, 403, 404, 408, 410, 429, 500, 503])
async def test_all_other_answers_mean_not_now(receiver: Receiver, status: int) -> None:
    receiver.statuses, receiver.headers = [status], {"Retry-After": "7", "Location": receiver.url}
    async with made(context()(webhook_url=receiver.url)) as sink:
        with pytest.raises(SinkUnavailable) as raised:
            await sink.deliver([{}])

    assert raised.value.retry_after_s == 7
    assert len(receiver.requests) == 1


def test_the_webhook_takes_the_types_that_it_is_told_to() -> None:
    sink = webhook(context()(webhook_url="https://example.org/x", webhook_types="node.state, brake."))
    assert sink is not None

    assert [sink.wants(one) for one in ("node.state", "brake.on", "node.created")] == [True, True, False]


def test_without_a_url_there_is_no_webhook() -> None:
    assert installed(context()()) == []


@pytest.mark.parametrize("url", ["example.org/x", "ftp://example.org", "https://"])
def test_a_webhook_that_cannot_be_is_left_out_and_the_server_starts(url: str) -> None:
    assert installed(context()(webhook_url=url)) == []


async def test_a_receiver_that_was_down_for_a_while_gets_all_events_once_it_is_up(
    stage: Stage, receiver: Receiver
) -> None:
    receiver.statuses = [503, 500, 404]
    async with made(context()(webhook_url=receiver.url)) as sink, stage.courier(sink):
        await stage.happen(*["node.state"] * 3)
        await stage.until_at("webhook", 4)

    taken = [event["seq"] for _, body in receiver.requests[3:] for event in body]
    assert taken == [2, 3, 4]
    assert len(receiver.requests) >= 4
