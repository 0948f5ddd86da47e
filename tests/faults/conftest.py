"""A fault node for each case."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.fault_node import fault_node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.fault_node import FaultNode


@pytest.fixture
def node(leaves_nothing_behind: None) -> Iterator[FaultNode]:
    """A node on which no nanny runs yet, under a watchdog and with a bystander."""
    with fault_node() as made:
        yield made
