"""Every test of the store runs on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from server_stub.store.engine import Database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(database_url)
    yield opened
    await opened.close()
