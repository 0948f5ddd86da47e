"""Messages become plain data and back; what breaks a rule is refused by name, wherever it comes from."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanny.protocol.errors import ProtocolViolation
from nanny.protocol.messages import (
    MESSAGE_TYPES,
    NEWEST_ONLY,
    SENT_BETWEEN,
    ApplicationMessage,
    CommandOrder,
    Condition,
    ConditionStatus,
    Message,
    Ping,
    Registration,
    Role,
    WorkerReport,
    from_wire,
    to_wire,
)
from nanny.protocol.wire_fields import clip_text, rules_of
from tests.support.wire_examples import COMMAND_ID, EXAMPLES, HELLO

FULL = {name: message for name, message in EXAMPLES.items() if name.endswith(".full")}
FIELDS = [(name, field) for name, message in FULL.items() for field in rules_of(type(message))]


def refusal(plain: object) -> str:
    with pytest.raises(ProtocolViolation) as caught:
        from_wire(plain)
    return str(caught.value)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_message_survives_json_and_back(name: str) -> None:
    assert from_wire(json.loads(json.dumps(to_wire(EXAMPLES[name])))) == EXAMPLES[name]


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_a_missing_field_is_refused_by_name_unless_it_is_optional(name: str, field: str) -> None:
    plain = to_wire(FULL[name])
    plain["b"].pop(field, None)

    if rules_of(type(FULL[name]))[field].required:
        assert refusal(plain) == f"{plain['t']}.{field}: missing"
    else:
        assert getattr(from_wire(plain), field) is None


@pytest.mark.parametrize(("name", "field"), FIELDS)
@pytest.mark.parametrize(
    "wrong",
    [b"bytes", object(), float("nan"), "\x00" * 70000, -(2**70)],
    ids=["bytes", "object", "nan", "huge text", "huge number"],
)
def test_a_field_of_no_possible_kind_is_refused_by_name(name: str, field: str, wrong: object) -> None:
    plain = to_wire(FULL[name])
    plain["b"][field] = wrong

    assert refusal(plain).startswith(f"{plain['t']}.{field}: ")


@pytest.mark.parametrize("name", EXAMPLES)
def test_fields_of_a_newer_peer_are_ignored(name: str) -> None:
    plain = to_wire(EXAMPLES[name])
    plain["b"]["a_field_of_tomorrow"] = {"nested": [1]}
    plain["x"] = "beside the body"

    assert from_wire(plain) == EXAMPLES[name]


@pytest.mark.parametrize(
    ("name", "path", "wrong", "told"),
    [
        ("ping.full", ["nonce"], True, "ping.nonce: expected a whole number"),
        ("ping.full", ["nonce"], -1, "ping.nonce: expected a whole number"),
        ("ping.full", ["nonce"], 1.0, "ping.nonce: expected a whole number"),
        (
            "welcome.full",
            ["keepalive_interval_s"],
            0,
            "welcome.keepalive_interval_s: expected 0.01 to 3600 seconds",
        ),
        ("welcome.full", ["keepalive_interval_s"], float("inf"), "welcome.keepalive_interval_s: expected"),
        ("welcome.full", ["resumed"], 1, "welcome.resumed: expected true or false"),
        ("hello.full", ["protocol_versions"], [0], "hello.protocol_versions[0]: expected a whole number"),
        (
            "hello.full",
            ["protocol_versions"],
            [1] * 33,
            "hello.protocol_versions: expected a list of at most 32",
        ),
        ("hello.full", ["incarnation"], "seven", "hello.incarnation: incarnation 'seven' is not of the form"),
        ("hello.full", ["incarnation"], "e/" + "0" * 5000, "hello.incarnation: incarnation number"),
        ("hello.full", ["incarnation"], "e\x1b/1", "hello.incarnation: expected 1 to 64 printable ASCII"),
        ("hello.full", ["node_id"], "a b", "hello.node_id: expected 1 to 128 printable ASCII"),
        ("hello.full", ["node_id"], "", "hello.node_id: expected 1 to 128 printable ASCII"),
        ("hello.full", ["node_id"], "\x1b[2J", "hello.node_id: expected 1 to 128 printable ASCII"),
        (
            "hello.full",
            ["role"],
            "admin",
            "hello.role: expected one of link, worker, server, got str 'admin'",
        ),
        (
            "command-order.full",
            ["command_id"],
            COMMAND_ID.upper(),
            "command-order.command_id: expected a UUID",
        ),
        ("command-order.full", ["time_to_live_s"], -0.1, "command-order.time_to_live_s: expected 0 to"),
        ("command-order.full", ["kind"], "rm -rf", "command-order.kind: expected a word"),
        (
            "command-order.full",
            ["parameters", "for_s"],
            [1],
            "command-order.parameters[for_s]: expected a finite",
        ),
        ("command-outcome.full", ["outcome"], "perhaps", "command-outcome.outcome: expected one of done,"),
        (
            "nanny-report.full",
            ["conditions", 1, "status"],
            "true",
            "nanny-report.conditions[1].status: expected one of",
        ),
        (
            "nanny-report.full",
            ["restarts", "lost"],
            "2",
            "nanny-report.restarts[lost]: expected a whole number",
        ),
        ("nanny-report.full", ["last_restart", "age_s"], None, "nanny-report.last_restart.age_s: expected"),
        ("nanny-report.full", ["last_restart"], [], "nanny-report.last_restart: expected a map"),
        (
            "registration.full",
            ["healthz_port"],
            65536,
            "registration.healthz_port: expected a whole number from 0",
        ),
        ("worker-report.full", ["telemetry"], [], "worker-report.telemetry: expected a map"),
        (
            "worker-report.full",
            ["telemetry", "host", "load"],
            float("nan"),
            "worker-report.telemetry: expected a finite",
        ),
        (
            "worker-report.full",
            ["telemetry", "host"],
            [0] * 8192,
            "worker-report.telemetry: more than 8192 items",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_place_and_what_was_expected(
    name: str, path: list[Any], wrong: object, told: str
) -> None:
    plain = copy.deepcopy(to_wire(EXAMPLES[name]))
    place = plain["b"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = wrong

    assert refusal(plain).startswith(told)


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        "ping",
        {},
        {"t": "ping"},
        {"t": "ping", "b": []},
        {"t": ["ping"], "b": {}},
        {"t": "pang", "b": {}},
        {"b": {}},
    ],
)
def test_what_is_no_message_is_refused(plain: object) -> None:
    refusal(plain)


def test_nesting_is_limited() -> None:
    telemetry: dict[str, Any] = {}
    for _ in range(20):
        telemetry = {"deeper": telemetry}

    assert refusal(
        {"t": "worker-report", "b": {"seq": 1, "loop_lag_s": 0, "telemetry": telemetry, "conditions": []}}
    ) == ("worker-report.telemetry: nested deeper than 10")


def test_a_refusal_never_repeats_much_of_what_came() -> None:
    assert len(refusal({"t": "x" * 100000, "b": {}})) < 200
    assert len(refusal({"t": "hello", "b": {**to_wire(HELLO)["b"], "role": "x" * 100000}})) < 200


def test_our_own_wrong_value_is_an_error_of_ours() -> None:
    with pytest.raises(ValueError, match=r"ping\.nonce: expected a whole number"):
        to_wire(Ping(-1))


def test_text_for_people_is_clipped_and_made_sound_when_sent() -> None:
    order = CommandOrder(COMMAND_ID, "restart", 1.0, "x" * 5000, "broken \udcff bytes")

    received = from_wire(to_wire(order))

    assert received == dataclasses.replace(order, reason="x" * 1023 + "…", actor="broken ? bytes")


def test_text_within_telemetry_is_clipped_and_made_sound_when_sent() -> None:
    report = WorkerReport(
        1, 0.0, {"mounts": ["/mnt/\udcff", "x" * 5000], "/\udcff": Role.LINK, Role.LINK: 1}, ()
    )

    plain = to_wire(report)["b"]["telemetry"]

    assert plain == {"mounts": ["/mnt/?", "x" * 4095 + "…"], "/?": "link", "link": 1}
    assert {type(each) for each in [*plain, plain["/?"]]} == {str}


def test_telemetry_that_contains_itself_is_an_error_of_ours() -> None:
    telemetry: dict[str, Any] = {}
    telemetry["again"] = telemetry

    with pytest.raises(ValueError, match=r"worker-report\.telemetry: nested deeper than 10"):
        to_wire(WorkerReport(1, 0.0, telemetry, ()))


@given(st.text(max_size=40), st.integers(1, 20))
def test_clipped_text_fits_and_is_unchanged_if_it_did(words: str, limit: int) -> None:
    clipped = clip_text(words, limit)

    assert len(clipped) <= limit
    assert clipped == words or len(words) > limit


def test_plain_data_shares_nothing_with_the_message() -> None:
    capacity = {"gpus": [1]}
    message = Registration(None, (), 0, capacity, {}, "", 0.0)
    plain = to_wire(message)

    capacity["gpus"].append(2)

    assert plain["b"]["capacity"] == {"gpus": [1]}


def test_words_of_enumerations_are_plain_text_on_the_wire() -> None:
    plain = to_wire(EXAMPLES["nanny-report.full"])["b"]

    assert {type(plain["desired"]), type(plain["conditions"][0]["status"])} == {str}


def test_a_kind_of_command_unknown_here_reaches_the_nanny() -> None:
    plain = to_wire(EXAMPLES["command-order.full"])
    plain["b"]["kind"] = "levitate"

    received = from_wire(plain)

    assert isinstance(received, CommandOrder)
    assert received.kind == "levitate"


def test_values_come_back_as_their_types() -> None:
    report = from_wire(to_wire(EXAMPLES["nanny-report.full"]))

    assert getattr(report, "conditions")[0] == Condition(  # noqa: B009
        "GpuDriverUnresponsive", ConditionStatus.TRUE, "ProbeOverran", "no answer in 10 s", 12.0
    )


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.sampled_from(sorted(FULL)), st.data())
def test_any_value_in_any_field_is_refused_or_understood_for_good(name: str, data: st.DataObject) -> None:
    plain = to_wire(FULL[name])
    field = data.draw(st.sampled_from(sorted(plain["b"])))
    plain["b"][field] = data.draw(json_like)
    try:
        message = from_wire(plain)
    except ProtocolViolation as violation:
        told = str(violation)
    else:
        told = f"{plain['t']}.{field}"
        assert from_wire(to_wire(message)) == message
    assert told.startswith(f"{plain['t']}.{field}")


def test_every_message_documents_each_of_its_parts_in_the_registry() -> None:
    shapes = set(MESSAGE_TYPES.values())

    assert all(shape.__doc__ for shape in shapes)
    assert set(SENT_BETWEEN) == {shape for shape in shapes if issubclass(shape, ApplicationMessage)}
    assert set(SENT_BETWEEN) > NEWEST_ONLY
    assert all(
        (sender is Role.SERVER) != (receiver is Role.SERVER) for sender, receiver in SENT_BETWEEN.values()
    )


def test_messages_are_frozen() -> None:
    message: Message = Ping(1)

    with pytest.raises(dataclasses.FrozenInstanceError):
        message.nonce = 2  # type: ignore[union-attr, misc]


def test_messages_load_nothing_beyond_the_standard_library() -> None:
    program = "import sys, nanny.protocol.messages; print([m for m in ('msgpack', 'asyncio', 'logging', 're', 'socket') if m in sys.modules])"

    # dataclasses itself brings re; nothing else of the list may come.
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout

    assert loaded.strip() == "['re']"
