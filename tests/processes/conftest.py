"""A node for each test; whatever lives on it is ended afterwards, and an unharmed nanny is asserted."""

from collections.abc import Iterator

import pytest

from tests.support.real_nanny import RealNanny, real_node


@pytest.fixture
def node(leaves_nothing_behind: None) -> Iterator[RealNanny]:
    """A node on which no nanny runs yet."""
    with real_node() as made:
        yield made
