"""Every input that is kept, through every target, without a fuzzer: what was mended once stays mended.

Also each target's cost: inputs of the greatest length, of the kinds that make parsers slow (one token a thousand
times, nesting, digits without end), must take little time and little memory. Time is the process's own, so that a
busy machine does not count; the bounds are some ten times what was seen.
"""

import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.registry import TARGETS
from tests.fuzz.target import CORPUS, FOUND, WORDS, Scratch, Target

pytestmark = pytest.mark.fuzz

INPUT_CPU_S = 5.0
INPUT_BYTES = 32 << 20
CORPUS_BYTES = 96 << 10


@pytest.fixture
def scratch(leaves_nothing_behind: None) -> Iterator[Scratch]:
    with tempfile.TemporaryDirectory(prefix="fz") as folder, Scratch(Path(folder)) as made:
        yield made


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_kept_is_taken_or_refused_as_declared(name: str, scratch: Scratch) -> None:
    run = TARGETS[name].make(scratch)
    kept = TARGETS[name].inputs()
    assert kept, f"no input is kept for {name}"
    for path in kept:
        given = path.read_bytes()
        run(given)
        # Torn and doubled, as disks and networks do it.
        for other in (given[: len(given) // 2], given[:-1], given[1:], given + given, given[::-1]):
            run(other)


def swollen(target: Target) -> list[bytes]:
    """Inputs as long as they get, each of one thing again and again."""
    pieces = [
        b"",
        b"\0",
        b"\n",
        b"\r\n",
        b" ",
        b"[",
        b'{"a":',
        b"9",
        b"\\",
        b'"',
        b"=",
        b",",
        b":",
        b"\xff",
        b"\xc3\xa9",
    ]
    for path in target.inputs()[:4]:
        given = path.read_bytes()
        pieces += [given, given + b"\n", given.rstrip(b"}\n \r") + b"9"]
    heads = [b"", *(path.read_bytes()[:64] for path in target.inputs()[:3])]
    made = []
    for piece in pieces:
        for head in heads:
            many = head + piece * ((target.longest - len(head)) // len(piece) if piece else 0)
            made.append(many[: target.longest])
    return made


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_costs_much_time_or_memory(name: str, scratch: Scratch) -> None:
    target = TARGETS[name]
    run = target.make(scratch)
    slowest_s, largest_bytes = 0.0, 0
    for given in swollen(target):
        tracemalloc.start()
        began_s = time.process_time()
        try:
            run(given)
        finally:
            spent_s = time.process_time() - began_s
            _, peak_bytes = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        slowest_s, largest_bytes = max(slowest_s, spent_s), max(largest_bytes, peak_bytes)
    assert slowest_s < INPUT_CPU_S
    assert largest_bytes < INPUT_BYTES


def test_the_corpus_is_small_and_of_known_targets_alone() -> None:
    for folder in (CORPUS, FOUND):
        names = {path.name for path in folder.iterdir() if path.is_dir()} if folder.exists() else set()
        assert names <= set(TARGETS), folder
    assert {path.stem for path in WORDS.iterdir()} == set(TARGETS)
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(sizes) < CORPUS_BYTES
