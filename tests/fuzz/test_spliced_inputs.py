"""Every target by hypothesis: kept inputs cut up and spliced with words of the format and arbitrary bytes.

What coverage-guided fuzzing does better where it is installed; this runs everywhere, and shrinks what it finds. The
examples are the same in each run: a lane that others wait for is no place for discoveries, `python -m tests.fuzz` is.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.registry import TARGETS
from tests.fuzz.target import Scratch, Target

pytestmark = pytest.mark.fuzz


@pytest.fixture
def scratch(leaves_nothing_behind: None) -> Iterator[Scratch]:
    with tempfile.TemporaryDirectory(prefix="fz") as folder, Scratch(Path(folder)) as made:
        yield made


def spliced(target: Target) -> st.SearchStrategy[bytes]:
    """Inputs made of pieces of what is kept."""
    kept = [path.read_bytes() for path in target.inputs()]

    def slice_of(whole: bytes) -> st.SearchStrategy[bytes]:
        place = st.integers(0, len(whole))
        return st.tuples(place, place).map(lambda ends: whole[min(ends) : max(ends)])

    pieces = st.one_of(
        st.sampled_from(kept),
        st.sampled_from(kept).flatmap(slice_of),
        st.sampled_from(target.words()),
        st.binary(max_size=12),
        st.integers(-(10**30), 10**30).map(lambda number: b"%d" % number),
    )
    return st.lists(pieces, max_size=8).map(b"".join).map(lambda whole: whole[: target.longest])


@pytest.mark.parametrize("name", TARGETS)
def test_spliced_inputs_are_taken_or_refused_as_declared(name: str, scratch: Scratch) -> None:
    run = TARGETS[name].make(scratch)

    @settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(spliced(TARGETS[name]))
    def taken_or_refused(whole: bytes) -> None:
        run(whole)

    taken_or_refused()
