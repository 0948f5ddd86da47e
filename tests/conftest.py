"""Fixtures for every test. Opt in to `leaves_nothing_behind` wherever processes, sockets or threads are made."""

import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support.processes import belongings, wait_until

# A suite that runs in the background of a shell inherits an ignored SIGINT, and so would every program it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def leaves_nothing_behind() -> Iterator[None]:
    """Assert that the test left no child process, no open descriptor and no thread behind.

    Name it first in the argument list: fixtures set up before it are not counted, those after it are torn
    down before it looks. Threads and children on their way out get two seconds.
    """
    before = belongings()
    yield
    with suppress(AssertionError):
        wait_until(lambda: not belongings().minus(before), 2.0, "the test's leftovers to go")
    left = belongings().minus(before)
    assert not left, f"the test left behind: {left}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of this suite."""
    parser.addoption(
        "--rewrite-scenarios", action="store_true", help="renew the reactions in tests/scenarios"
    )
