"""Nodes that run what others wrote, as the recipes in docs/recipes/ say."""

import os

import pytest

from tests.support.dask_scheduler import DASK


@pytest.fixture(autouse=True)
def peers_are_installed() -> None:
    """Skip where the peers are not installed (they are development dependencies)."""
    pytest.importorskip("gunicorn", reason="no gunicorn: a development dependency")
    pytest.importorskip("sdnotify", reason="no sdnotify: a development dependency")
    if not os.path.exists(DASK):
        pytest.skip("no dask: a development dependency")
