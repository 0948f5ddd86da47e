"""Every frame that was ever sent is understood for ever."""

from __future__ import annotations

import json
from pathlib import Path

import msgpack
import pytest

from nanny.protocol.codec import decode_frame, encode_frame
from nanny.protocol.messages import MESSAGE_TYPES, to_wire
from tests.support.wire_examples import EXAMPLES

GOLDEN = Path(__file__).parents[2] / "golden" / "wire"
FRAMES = sorted(GOLDEN.glob("v*/*.msgpack"))


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", FRAMES, ids=name_of)
def test_a_golden_frame_is_decoded_to_what_its_twin_says(path: Path) -> None:
    twin = json.loads(path.with_suffix(".json").read_text())

    frame = decode_frame(path.read_bytes())
    plain = to_wire(frame.message)

    assert (frame.version, frame.sequence, plain["t"]) == (twin["v"], twin.get("s"), twin["t"])
    assert {key: plain["b"][key] for key in twin["b"]} == twin["b"]


@pytest.mark.parametrize("path", FRAMES, ids=name_of)
def test_a_golden_frame_and_its_twin_hold_the_same(path: Path) -> None:
    assert msgpack.unpackb(path.read_bytes()) == json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize("path", sorted((GOLDEN / "v1").glob("*.msgpack")), ids=name_of)
def test_a_golden_frame_still_means_its_example(path: Path) -> None:
    assert decode_frame(path.read_bytes()).message == EXAMPLES[path.stem]


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_survives_its_frame(name: str) -> None:
    frame = decode_frame(encode_frame(EXAMPLES[name], version=1))

    assert frame.message == EXAMPLES[name]


def test_every_message_type_and_example_has_a_golden_frame() -> None:
    stems = {path.stem for path in FRAMES}

    assert set(EXAMPLES) - stems == set()
    assert set(MESSAGE_TYPES) - {stem.partition(".")[0] for stem in stems} == set()


def test_every_golden_frame_has_its_twin() -> None:
    twins = {path.with_suffix("") for path in GOLDEN.glob("v*/*.json")}

    assert twins == {path.with_suffix("") for path in FRAMES}
