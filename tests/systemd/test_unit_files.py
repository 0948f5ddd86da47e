"""The repository's unit files, users and directories as systemd itself judges them.

`exposure.json` holds what `systemd-analyze security` (252) gives each unit: a number that may fall and not rise.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.systemd.node import Node

EXPOSURE: dict[str, float] = json.loads((Path(__file__).parent / "exposure.json").read_text())
UNITS = sorted(path.name for path in (Path(__file__).parents[2] / "packaging/systemd").iterdir())


def test_each_unit_has_its_number() -> None:
    assert sorted(EXPOSURE) == UNITS


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_nothing_to_say_about_a_unit(node: Node, unit: str) -> None:
    told = node.box.ask("systemd-analyze", "verify", unit)

    assert (told.status, told.out, told.err) == (0, "", "")


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_exposed_no_more_than_it_was(node: Node, unit: str) -> None:
    told = node.box.run("systemd-analyze", "security", "--no-pager", unit)

    (exposure,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", told)
    assert float(exposure) <= EXPOSURE[unit], told


def test_a_unit_that_was_weakened_is_exposed_more(node: Node) -> None:
    """The number is one of this unit as it runs, not of a name."""
    with node.drop_in("NoNewPrivileges=no\nProtectSystem=no\nSystemCallFilter=", unit="nodenanny-link"):
        told = node.box.run("systemd-analyze", "security", "--no-pager", "nodenanny-link.service")

    (exposure,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", told)
    assert float(exposure) > EXPOSURE["nodenanny-link.service"]


def test_the_users_and_groups_are_made_without_a_shell_or_a_home(node: Node) -> None:
    name, _, uid, _, _, home, shell = node.box.run("getent", "passwd", "nodenanny-link").strip().split(":")
    groups = node.box.run("id", "-nG", "nodenanny-link").split()

    assert (name, home, shell) == ("nodenanny-link", "/", "/usr/sbin/nologin")
    assert 0 < int(uid) < 1000
    assert "nodenanny" in groups
    assert node.box.run("passwd", "--status", "nodenanny-link").split()[1] == "L"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/etc/nodenanny", "755 root root"),
        ("/etc/nodenanny/nodenanny.toml", "640 root nodenanny"),
        ("/var/lib/nodenanny", "710 root nodenanny"),
        ("/var/lib/nodenanny/evidence", "2750 root nodenanny"),
        ("/run/nodenanny", "755 root root"),
        ("/run/nodenanny/control.sock", "660 root nodenanny"),
        ("/run/nodenanny/facts", "600 root root"),
        ("/run/nodenanny/output.fifo", "600 root root"),
    ],
)
def test_each_path_is_its_owners(node: Node, path: str, expected: str) -> None:
    node.box.run("systemd-tmpfiles", "--create", "nodenanny.conf")

    assert node.box.run("stat", "-c", "%a %U %G", path).strip() == expected
