"""One installation for all tests, one box for most of them; every box is removed at the end, whatever happened."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.systemd import box, installation
from tests.systemd.node import QUICK, Node, binds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUILD_TIMEOUT_S = 420


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies here; the first of them may have to build the root file system."""
    why = box.why_not() or installation.why_not()
    for item in items:
        if "tests/systemd/" in str(item.path):
            item.add_marker(pytest.mark.systemd)
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(BUILD_TIMEOUT_S))
            if why:
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="session")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed program, to be bound into boxes."""
    box.remove_left_over("nn", "nd")
    return installation.install(tmp_path_factory.mktemp("installation"))


@contextmanager
def installed_node(name: str, prefix: Path, disk: str | None = None) -> Iterator[Node]:
    """A node in a box of its own, enabled and not started."""
    made = box.Box(f"{name}-{os.getpid()}", binds(prefix), disk)
    try:
        node = Node(made.start())
        node.install()
        yield node
    finally:
        made.remove()


@pytest.fixture(scope="session")
def shared_node(prefix: Path) -> Iterator[Node]:
    """The node of most tests."""
    with installed_node("nn", prefix) as made:
        made.configure(QUICK)
        yield made


@pytest.fixture
def node(shared_node: Node) -> Node:
    """The node, up and READY with quick settings, whatever the test before has left."""
    shared_node.heal()
    return shared_node


@pytest.fixture
def disk_node(prefix: Path) -> Iterator[Node]:
    """A node on a disk of its own, which loses at a power cut what was not synced."""
    with installed_node("nd", prefix, "512M") as made:
        made.configure(QUICK)
        made.box.run("sync", "-f", "/")
        yield made
