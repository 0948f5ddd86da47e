"""A fault node for each case, and a skip with the reason where this machine can't do it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.fault_node import fault_node
from tests.faults.registry import fault_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.fault_node import FaultNode


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a case that this machine can't do."""
    about = fault_of(getattr(item, "function", None))
    reason = None if about is None else about.why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def node(leaves_nothing_behind: None) -> Iterator[FaultNode]:
    """A node on which no nanny runs yet, under a watchdog and with a bystander."""
    with fault_node() as made:
        yield made
