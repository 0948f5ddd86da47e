"""A recording of what the core saw leads to the same decisions again, whatever it saw."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanny.core import events as e
from nanny.core.config import ChildTiming, PolicyConfig
from nanny.core.draft import Step
from nanny.core.policy import step
from nanny.core.recording_reader import joints, played, read_recording
from nanny.core.startup import recover
from nanny.core.state import NannyState
from nanny.protocol.errors import ProtocolViolation
from nanny.recorder import FlightRecorder
from tests.scenarios import stage

SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios").glob("*.txt"))


def recorder() -> FlightRecorder:
    return FlightRecorder(lambda: 1_800_000_000.0, "0.0.1", "gpu-7")


def started(config: PolicyConfig) -> NannyState:
    return recover([], (), 0.0, ("e", "spare"), config).state


def drive(
    kept: FlightRecorder,
    config: PolicyConfig,
    *happened: tuple[float, e.Event],
    state: NannyState | None = None,
) -> NannyState:
    state = started(config) if state is None else state
    for at, event in happened:
        result = step(state, event, at, config)
        kept.note(state, event, at, config, result)
        state = result.state
    return state


def beats(count: int, start: float) -> list[tuple[float, e.Event]]:
    return [(start + 2.0 * n, e.TimePassed()) for n in range(count)]


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_every_scenario_replays_to_the_same_decisions(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lives: list[tuple[FlightRecorder, list[Step]]] = []

    def recorded(state: NannyState, event: e.Event, now: float, config: PolicyConfig) -> Step:
        result = step(state, event, now, config)
        if not lives or lives[-1][1][-1].state is not state:
            lives.append(
                (recorder(), [])
            )  # Another nanny has recovered: its recorder knows nothing of before.
        lives[-1][0].note(state, event, now, config, result)
        lives[-1][1].append(result)
        return result

    monkeypatch.setattr(stage, "step", recorded)
    stage.played(path.read_text())

    assert lives, "the scenario took no step"
    for kept, steps in lives:
        pieces = read_recording(kept.dump())
        replayed = list(played(pieces))
        assert [one.step for one in replayed] == steps
        assert [one.differs for one in replayed if one.differs] == []
        assert joints(pieces) == []


def test_a_long_recording_keeps_the_latest_events_and_starts_from_a_state() -> None:
    config = PolicyConfig()
    kept = recorder()
    state = drive(kept, config, (0.0, e.NannyStarted()))
    drive(kept, config, *beats(10_000, 1.0), state=state)

    pieces = read_recording(kept.dump())
    moments = [moment for piece in pieces for moment in piece.moments]
    assert 4096 <= len(moments) < 4096 + 2 * 128
    assert moments[-1].at == 1.0 + 2.0 * 9_999
    assert joints(pieces) == []
    assert [one.differs for one in played(pieces) if one.differs] == []


def test_new_settings_begin_a_piece_of_their_own() -> None:
    kept = recorder()
    first, second = PolicyConfig(), PolicyConfig(worker=ChildTiming(heartbeat_timeout_s=60.0))
    state = drive(kept, first, (0.0, e.NannyStarted()))
    drive(kept, second, (1.0, e.TimePassed()), state=state)
    assert [piece.config for piece in read_recording(kept.dump())] == [first, second]


def test_a_decision_that_would_be_another_one_now_is_shown() -> None:
    kept = recorder()
    config = PolicyConfig()
    before = started(config)
    kept.note(before, e.NannyStarted(), 0.0, config, Step(before, (), ()))
    (one,) = played(read_recording(kept.dump()))
    assert one.differs.startswith("then nothing; now ")
    assert "SpawnWorker" in one.differs


def test_a_recording_that_was_cut_is_read_as_far_as_it_goes() -> None:
    kept = recorder()
    config = PolicyConfig()
    state = drive(kept, config, (0.0, e.NannyStarted()))
    drive(kept, config, *beats(300, 1.0), state=state)
    whole = kept.dump()
    for length in range(len(whole) - 200, len(whole)):
        pieces = read_recording(whole[:length])
        assert 128 <= sum(len(piece.moments) for piece in pieces) <= 301


def _packed(*lines: Any) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    return packer.compress(text.encode()) + packer.flush()


def _start(change: Callable[[dict[str, Any]], None] = lambda _start: None) -> dict[str, Any]:
    kept = recorder()
    drive(kept, PolicyConfig(), (0.0, e.NannyStarted()))
    start: dict[str, Any] = json.loads(zlib.decompress(kept.dump(), 31).split(b"\n")[0])
    change(start)
    return start


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "empty"),
        ([[0.0, {"is": "NannyStarted"}]], "begins with an object"),
        ([_start(lambda s: s.update(recording=2))], "format 2: this program reads 1"),
        ([_start(lambda s: s["state"].update(mood="good"))], "NannyState has no mood"),
        ([_start(lambda s: s["state"].update(next_number="7"))], "'7' is no int"),
        ([_start(lambda s: s.pop("config"))], "config"),
        ([_start(), [0.0, {"is": "Popen", "args": "sh"}]], "'Popen' is no event"),
        ([_start(), [0.0, {"is": "NannyState"}]], "'NannyState' is no event"),
        ([_start(), {"recording": 1}], "version"),
    ],
    ids=range(9),
)
def test_what_is_no_recording_is_refused_by_name(lines: list[Any], told: str) -> None:
    with pytest.raises(ProtocolViolation, match=told):
        read_recording(_packed(*lines))


def test_bytes_that_are_no_gzip_are_refused() -> None:
    with pytest.raises(ProtocolViolation, match="no gzip"):
        read_recording(b'{"recording": 1}')


def test_a_moment_that_cannot_be_decided_at_all_is_named() -> None:
    """By a recording of a state that never was, or of another version with other rules: no stack for the operator."""
    impossible = _start(lambda s: s["state"]["worker"].update(stage="ready", deadline=0.5))
    pieces = read_recording(_packed(impossible, [1.0, {"is": "TimePassed"}]))
    with pytest.raises(ProtocolViolation, match=r"TimePassed at 1\.000 cannot be decided: AssertionError"):
        list(played(pieces))
