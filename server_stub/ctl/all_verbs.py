"""Every verb of the command line but those that serve, in the order in which `--help` names them."""

from __future__ import annotations

from typing import Any

from server_stub.ctl import brakes, commands, events, evidence, maintenance, nodes, rollouts
from server_stub.ctl.verb import Adder


def add(verbs: Any) -> None:
    """Add all verbs to the parser's."""
    adder = Adder(verbs)
    for subject in (nodes, maintenance, commands, rollouts, events, evidence, brakes):
        subject.add(adder)
