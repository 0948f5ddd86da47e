"""A server whose own network is cut: all its checks fail at once, none raises, and all are well when it is back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from tests.support.cut_network import NODES
from tests.support.processes import spawn_python

ROOT: Final = Path(__file__).parents[2]
pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_all_checks_fail_at_once_and_say_how_and_none_fails_afterwards() -> None:
    program = "import runpy; runpy.run_module('tests.support.cut_network', run_name='__main__')"
    with spawn_python(program, cwd=ROOT) as cut:
        story = json.loads(cut.read_line(120.0) or "{}")

    assert story["before"] == {"ok": NODES}
    assert set(story["cut, kept connections"]) <= {"timeout", "no-route"}
    assert set(story["cut, new connections"]) <= {"timeout", "no-route"}
    assert story["without a route"] == {"no-route": NODES}
    assert story["after"] == {"ok": 2 * NODES}
