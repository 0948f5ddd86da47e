"""One order with an id of its own, which can be sent again and again, as link does until it has the outcome.

Knows what its sender was told, each time; what became of it in the nanny is for others to judge.
"""

from __future__ import annotations

import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nanny.common.identifiers import uuid7
from tests.support.real_nanny import ControlClient

if TYPE_CHECKING:
    from tests.support.real_nanny import RealNanny


@dataclass
class Ordered:
    """One order and what its sender was told."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid7(time.time_ns() // 1_000_000, secrets.token_bytes(10)))
    outcomes: list[str] = field(default_factory=list)

    def send(self, node: RealNanny) -> bool:
        """Order it and wait for the outcome; False if the nanny fell before."""
        with suppress(OSError, EOFError), ControlClient(node.control_path) as client:
            client.ask("subscribe")
            line = client.ask(
                "command", command_id=self.id, kind=self.kind, reason="test", actor="tester", **self.fields
            )
            while line.get("outcome") is None or line.get("command_id") != self.id:
                line = client.line()
            self.outcomes.append(line["outcome"])
            return True
        return False
