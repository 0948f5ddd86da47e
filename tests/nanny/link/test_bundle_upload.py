"""Bundles sent to a real HTTP server, read by a real process from a real directory."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from nanny.link.bundle_upload import UPLOAD_EVIDENCE, BundleUploads, _base_of
from nanny.link.config import LinkConfig
from nanny.protocol.messages import CommandOrder, CommandOutcome, Outcome
from tests.support.dead_mount import dead_mount, why_no_dead_mount

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

COMMAND_ID = "0190e0a0-5c1e-7d52-8f3b-6f2d4a9b1c07"
BUNDLE = "20260501T120000.123456Z-7-stalled"


class Log:
    def info(self, *_: Any, **__: Any) -> None: ...

    warning = error = info


@dataclass
class Receiver:
    url: str = ""
    paths: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    status: int = 201


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()

    async def take(request: web.Request) -> web.Response:
        receiver.paths.append(request.path)
        receiver.bodies.append(await request.content.read())
        return web.json_response({}, status=receiver.status)

    application = web.Application()
    application.router.add_put("/{anything:.*}", take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = site.name
    try:
        yield receiver
    finally:
        await runner.cleanup()


async def outcome_of(
    receiver: Receiver, state_dir: Path | str, bundle: object = BUNDLE, **status: Any
) -> CommandOutcome:
    told: asyncio.Queue[CommandOutcome] = asyncio.Queue()
    config = LinkConfig(server_url=receiver.url, control_socket=f"{state_dir}/run/control.sock")
    uploads = BundleUploads(config, lambda: True, Log())  # type: ignore[arg-type]
    order = CommandOrder(COMMAND_ID, UPLOAD_EVIDENCE, 60.0, "look", "test", None, {"bundle": bundle})  # type: ignore[dict-item]
    uploads.take(order, {"node_id": "node-1", "state_dir": str(state_dir), **status}, told.put_nowait)
    async with asyncio.timeout(60):
        return await told.get()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    directory = tmp_path / "evidence" / BUNDLE
    directory.mkdir(parents=True)
    (directory / "summary.txt").write_text("what, why, where\n")
    (directory / "stacks.txt").write_bytes(os.urandom(300_000))
    (directory / "link").symlink_to("/etc/shadow")
    return directory


async def test_a_bundle_arrives_whole_and_without_what_it_only_points_at(
    tmp_path: Path, bundle: Path
) -> None:
    async with receiving() as receiver:
        outcome = await outcome_of(receiver, tmp_path)

    assert (outcome.outcome, receiver.paths) == (
        Outcome.DONE,
        [f"/v1/nodes/node-1/evidence/{BUNDLE}/content"],
    )
    with tarfile.open(fileobj=io.BytesIO(receiver.bodies[0])) as tar:
        found = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    assert found == {
        f"{BUNDLE}/{name}": (bundle / name).read_bytes() for name in ("summary.txt", "stacks.txt")
    }


async def test_a_bundle_that_is_not_there_fails_with_the_reason(tmp_path: Path) -> None:
    async with receiving() as receiver:
        outcome = await outcome_of(receiver, tmp_path)

    assert outcome.outcome is Outcome.FAILED
    assert "find the evidence" in outcome.detail


@pytest.mark.parametrize("name", ["../../etc/shadow", "", None, 7, "/etc"])
async def test_what_is_no_name_of_a_bundle_is_rejected_before_anything_is_read(
    tmp_path: Path, name: object
) -> None:
    async with receiving() as receiver:
        outcome = await outcome_of(receiver, tmp_path, name)

    assert (outcome.outcome, receiver.paths) == (Outcome.REJECTED, [])


async def test_an_order_whose_time_is_over_is_not_carried_out(tmp_path: Path, bundle: Path) -> None:
    told: list[CommandOutcome] = []
    config = LinkConfig(server_url="http://127.0.0.1:9", control_socket=f"{tmp_path}/run/control.sock")
    uploads = BundleUploads(config, lambda: True, Log())  # type: ignore[arg-type]
    order = CommandOrder(COMMAND_ID, UPLOAD_EVIDENCE, 0.0, "look", "test", None, {"bundle": BUNDLE})

    uploads.take(order, {"node_id": "node-1", "state_dir": str(tmp_path)}, told.append)

    assert [one.outcome for one in told] == [Outcome.EXPIRED]


async def test_a_server_that_refuses_is_quoted(tmp_path: Path, bundle: Path) -> None:
    async with receiving() as receiver:
        receiver.status = 409
        outcome = await outcome_of(receiver, tmp_path)

    assert (outcome.outcome, outcome.detail[:23]) == (Outcome.FAILED, "the server answered 409")


async def test_an_order_that_comes_again_meanwhile_is_carried_out_once(tmp_path: Path, bundle: Path) -> None:
    told: asyncio.Queue[CommandOutcome] = asyncio.Queue()
    async with receiving() as receiver:
        config = LinkConfig(server_url=receiver.url, control_socket=f"{tmp_path}/run/control.sock")
        uploads = BundleUploads(config, lambda: True, Log())  # type: ignore[arg-type]
        order = CommandOrder(COMMAND_ID, UPLOAD_EVIDENCE, 60.0, "look", "test", None, {"bundle": BUNDLE})
        for _ in range(3):
            uploads.take(order, {"node_id": "node-1", "state_dir": str(tmp_path)}, told.put_nowait)
        async with asyncio.timeout(60):
            outcome = await told.get()

    assert (outcome.outcome, told.qsize(), len(receiver.bodies)) == (Outcome.DONE, 0, 1)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(bool(why_no_dead_mount()), reason=why_no_dead_mount() or "")
async def test_a_disk_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanny.link.bundle_upload.TIMEOUT_S", 1.0)
    with dead_mount(tmp_path / "dead") as mount:
        async with receiving() as receiver:
            beats = 0

            async def beat() -> None:
                nonlocal beats
                while True:
                    beats += 1
                    await asyncio.sleep(0.05)

            beating = asyncio.create_task(beat())
            outcome = await outcome_of(receiver, mount)
            beating.cancel()

    assert (outcome.outcome, "within 1 s" in outcome.detail) == (Outcome.FAILED, True)
    assert beats > 5


@pytest.mark.parametrize(
    ("server_url", "base"),
    [
        ("http://127.0.0.1:8470", "http://127.0.0.1:8470"),
        ("wss://control.example/fleet/v1/link", "https://control.example/fleet"),
        ("ws://localhost:1/", "http://localhost:1"),
        ("https://control.example/fleet/", "https://control.example/fleet"),
    ],
)
def test_the_address_for_http_follows_from_the_servers(server_url: str, base: str) -> None:
    assert _base_of(server_url) == base
