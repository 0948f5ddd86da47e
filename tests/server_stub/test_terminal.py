"""The command line against a real server: what each verb shows people and gives programs, and its exit code."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from nanny.protocol.messages import CommandOrder, CommandOutcome, EvidenceSummary, Outcome, Role
from server_stub import cli
from tests.support.processes import spawn_python
from tests.support.server_peers import Client, Healthz, Peer, life, nanny_report, registration

if TYPE_CHECKING:
    from collections.abc import Callable

    from server_stub.main import RunningServer

    Peers = Callable[..., Peer]
    Typed = Callable[..., Any]


@dataclass
class Said:
    """What a verb wrote, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def typed(server: RunningServer) -> Typed:
    """Type a command line; the server of this test is the one that is asked."""

    async def run(*words: str) -> Said:
        def main() -> Said:
            out, err = io.StringIO(), io.StringIO()
            with redirect_stdout(out), redirect_stderr(err):
                try:
                    code = cli.main([*words, "--url", server.url])
                except SystemExit as ended:
                    code = int(ended.code or 0)
            return Said(code, out.getvalue(), err.getvalue())

        return await asyncio.to_thread(main)

    return run


async def answer(link: Peer, outcome: Outcome = Outcome.DONE, detail: str = "") -> CommandOrder:
    order = await link.expect(CommandOrder)
    await link.send(CommandOutcome(order.command_id, outcome, detail))
    return order


@pytest.fixture
async def link(peers: Peers, client: Client) -> Peer:
    made = peers(Role.LINK)
    await made.connect()
    await made.send(nanny_report())
    page = await client.get("/v1/nodes/node-1", wait_s=20, revision=0)
    while page["nanny"] is None:
        page = await client.get("/v1/nodes/node-1", wait_s=20, revision=page["revision"])
    return made


async def test_a_fleet_without_nodes_says_what_to_do(typed: Typed) -> None:
    said = await typed("nodes")

    assert (said.code, "start a nanny with server_url set here" in said.out) == (0, True)


async def test_nodes_and_one_node_are_tables_for_people_and_json_for_programs(
    typed: Typed, link: Peer
) -> None:
    nodes, node = await typed("nodes"), await typed("node", "node-1")
    as_json = await typed("node", "node-1", "--json")

    assert (nodes.code, "node-1" in nodes.out, "1 node:" in nodes.out) == (0, True, True)
    assert "desired" in node.out
    assert as_json.json["name"] == "node-1"


@pytest.mark.parametrize(("outcome", "code"), [(Outcome.DONE, 0), (Outcome.REJECTED, 1)])
async def test_an_order_is_waited_for_and_its_outcome_is_the_exit_code(
    typed: Typed, link: Peer, outcome: Outcome, code: int
) -> None:
    typing = asyncio.create_task(typed("order", "hold", "node-1", "--for", "30m", "--reason", "a debugger"))
    order = await answer(link, outcome, "as told")
    said = await typing

    assert (order.kind, order.reason, order.parameters) == ("hold", "a debugger", {"for_s": 1800.0})
    assert (said.code, "as told" in said.out) == (code, True)


async def test_a_command_is_shown_with_its_times_and_can_be_taken_back_while_it_waits(
    typed: Typed, link: Peer
) -> None:
    await link.disconnect()
    ordered = await typed(
        "restart", "node-1", "--reason", "a test", "--wait", "40ms", "--any", "--json", "--actor", "alice"
    )
    shown = await typed("command", ordered.json["id"])
    listed = await typed("commands", "node-1", "--state", "open", "--json")
    taken_back = await typed("cancel", ordered.json["id"], "--json")
    again = await typed("cancel", ordered.json["id"], "--json")

    assert ordered.json["actor"] == "alice"
    assert "queued" in shown.out
    assert [one["id"] for one in listed.json["commands"]] == [ordered.json["id"]]
    assert (taken_back.code, taken_back.json["state"]) == (0, "superseded")
    assert again.code in {0, 1}


async def test_a_node_is_explained(typed: Typed, link: Peer) -> None:
    said, as_json = await typed("explain", "node-1"), await typed("explain", "node-1", "--json")

    assert said.out.startswith(f"node-1 is {as_json.json['state']}")
    assert "what happens by itself" in said.out


async def test_maintenance_is_ordered_for_many_and_ended(typed: Typed, link: Peer) -> None:
    on = await typed("maintenance", "on", "node-1", "--reason", "new fans", "--for", "2h", "--json")
    shown = await typed("nodes")
    off = await typed("maintenance", "off", "node-1", "--json")
    nobody = await typed("maintenance", "off")

    assert (on.code, on.json["nodes"][0]["maintenance"]["reason"]) == (0, "new fans")
    assert on.json["nodes"][0]["maintenance"]["until"] is not None
    assert "node-1" in shown.out
    assert (off.code, off.json["nodes"][0]["maintenance"]) == (0, None)
    assert nobody.code == 1


async def test_labels_are_set_and_taken_away(typed: Typed, link: Peer) -> None:
    first = await typed("label", "node-1", "rack=r7", "role=canary", "--json")
    second = await typed("label", "node-1", "role-", "--json")
    wrong = await typed("label", "node-1", "rack")

    assert first.json["labels"] == {"rack": "r7", "role": "canary"}
    assert second.json["labels"] == {"rack": "r7"}
    assert (wrong.code, "write rack=VALUE" in wrong.err) == (1, True)


async def test_a_rollout_is_begun_followed_and_ends_with_its_outcome(
    typed: Typed, link: Peer, peers: Peers, client: Client, healthz: Healthz
) -> None:
    worker = peers(Role.WORKER)
    await worker.connect()
    await worker.send(registration(healthz.port))
    await client.node_in("READY")
    await typed("label", "node-1", "rack=r7")
    words = ("rollout", "start", "--selector", "rack=r7", "--reason", "new driver")

    planned = await typed(*words, "--dry-run", "--json")
    typing = asyncio.create_task(typed(*words, "--json"))
    await answer(link, Outcome.FAILED, "could not")
    said = await typing
    listed, shown = await typed("rollout", "list"), await typed("rollout", "show", said.json["id"])

    assert [node["name"] for node in planned.json["nodes"]] == ["node-1"]
    assert (said.code, said.json["state"]) == (1, "aborted")
    assert "aborted" in listed.out
    assert "could not" in shown.out


async def test_events_are_lines_newest_last(typed: Typed, link: Peer) -> None:
    all_of_them = await typed("events", "--json")
    of_the_node = await typed("events", "--type", "node.created", "--node", "node-1")

    numbers = [event["seq"] for event in all_of_them.json["events"]]
    assert numbers == sorted(numbers)
    assert "node.created" in of_the_node.out


async def test_hangs_and_evidence_are_shown(typed: Typed, link: Peer, client: Client) -> None:
    bundle = "20260501T120000.123456Z-1-stalled"
    nothing = await typed("hangs")
    await link.send(
        EvidenceSummary(bundle, life(1), "stalled", 2048, "pool:acquire:88", "pool:acquire < app:read")
    )
    async with asyncio.timeout(30):
        while not (await client.get("/v1/evidence"))["evidence"]:  # noqa: ASYNC110  (taken in its own time)
            await asyncio.sleep(0.02)

    hangs, listed = await typed("hangs"), await typed("evidence", "list", "node-1")

    assert "no hangs" in nothing.out
    assert "pool:acquire" in hangs.out
    assert bundle in listed.out


async def test_a_bundle_that_the_node_cannot_send_is_said_with_its_reason(
    typed: Typed, link: Peer, client: Client, tmp_path: Any
) -> None:
    bundle = "20260501T120000.123456Z-1-stalled"
    await link.send(EvidenceSummary(bundle, life(1), "stalled", 2048))
    async with asyncio.timeout(30):
        while not (await client.get("/v1/evidence"))["evidence"]:  # noqa: ASYNC110  (taken in its own time)
            await asyncio.sleep(0.02)
    target = tmp_path / "bundle.tar.gz"

    typing = asyncio.create_task(typed("evidence", "fetch", "node-1", bundle, "-o", str(target)))
    await answer(link, Outcome.FAILED, "the disk is gone")
    said = await typing

    assert (said.code, "the disk is gone" in said.err, target.exists()) == (1, True, False)


async def test_the_brakes_are_shown_and_lifted(typed: Typed) -> None:
    before = await typed("brake", "status")
    lifted = await typed(
        "brake", "lift", "demotions", "--for", "10m", "--reason", "the rack is dead", "--json"
    )

    assert "demotions" in before.out
    by_name = {brake["name"]: brake for brake in lifted.json["brakes"]}
    assert (lifted.code, bool(by_name["demotions"]["lifted_until"])) == (0, True)


async def test_a_node_that_is_gone_is_deleted(typed: Typed, link: Peer) -> None:
    while_it_is_there = await typed("delete", "node-1", "--reason", "scrapped")
    await link.disconnect()
    async with asyncio.timeout(30):
        while (await typed("delete", "node-1", "--reason", "scrapped")).code:  # noqa: ASYNC110  (until it is seen)
            await asyncio.sleep(0.05)
    nodes = await typed("nodes", "--json")

    assert (while_it_is_there.code, "connected" in while_it_is_there.err) == (1, True)
    assert nodes.json["nodes"] == []


async def test_an_unknown_node_is_one_line_that_names_it(typed: Typed) -> None:
    said = await typed("node", "nobody")

    assert (said.code, "nobody" in said.err, said.err.count("\n")) == (1, True, 1)


async def test_watching_appends_events_as_they_come(server: RunningServer, peers: Peers) -> None:
    words = ("events", "--watch", "--json", "--url", server.url)
    code = "import sys; from server_stub import cli; sys.exit(cli.main(sys.argv[1:]))"
    with spawn_python(code, argv=words) as watching:
        first = json.loads(await asyncio.to_thread(watching.read_line, 60.0))
        link = peers(Role.LINK)
        await link.connect()
        types: list[str] = []
        while "io.nodenanny.node.created" not in types:
            more = json.loads(await asyncio.to_thread(watching.read_line, 60.0))
            types += [event["type"] for event in more["events"]]

    assert first["events"] == []


def test_serving_loads_no_verb_that_asks() -> None:
    code = """
import sys
from server_stub import cli
cli._parser("serve")
print(sorted(name for name in sys.modules if name in {"sqlalchemy", "server_stub.ctl"}))
"""
    with spawn_python(code) as process:
        assert process.read_line(60.0) == "[]"
