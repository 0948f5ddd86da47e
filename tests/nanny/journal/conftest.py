"""Fixtures of the journal's tests: forked writers that never outlive a test."""

from collections.abc import Iterator

import pytest

from tests.support.small_fork import SmallForks


@pytest.fixture
def forks(leaves_nothing_behind: None) -> Iterator[SmallForks]:
    with SmallForks() as small_forks:
        yield small_forks
