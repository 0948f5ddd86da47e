"""What in the documents is made from the code: ``python -m tests.architecture.generated_docs`` writes it anew.

Each part stands between ``<!-- generated: NAME -->`` and ``<!-- end generated -->``; a test fails when one is stale.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agent.config import AgentConfig
from nanny.common.settings_reference import reference_markdown
from nanny.config import NannyConfig
from nanny.core.policy import TABLE, Cell
from nanny.core.recovery_ladder import RUNGS
from nanny.core.state import Phase
from nanny.link.config import LinkConfig
from server_stub.api import ROUTES
from server_stub.config import ServerConfig
from server_stub.events import EVENT_TYPES, TYPE_PREFIX
from server_stub.openapi import ALWAYS, is_websocket, problem_codes
from server_stub.problems import STATUS
from tests.support.node_situations import node_states, probe_classes, words

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
_PART = re.compile(
    r"(<!-- generated: (?P<name>[a-z-]+) -->\n)(?P<body>.*?)(<!-- end generated -->)", re.DOTALL
)


def phases_and_events() -> str:
    """The table behind ``step``: a row an event, its phases grouped by what is decided."""
    lines = ["| event | in phase | decision |", "|---|---|---|"]
    for event, row in TABLE.items():
        for position, (cell, phases) in enumerate(_grouped(row)):
            name = f"`{event.__name__}`" if position == 0 else ""
            where = "every" if len(phases) == len(Phase) else ", ".join(phases)
            lines.append(f"| {name} | {where} | {_said(cell)} |")
    return "\n".join(lines) + "\n"


def _grouped(row: dict[Phase, Cell]) -> list[tuple[Cell, list[Phase]]]:
    groups: list[tuple[Cell, list[Phase]]] = []
    for phase in Phase:
        for cell, phases in groups:
            if cell == row[phase]:
                phases.append(phase)
                break
        else:
            groups.append((row[phase], [phase]))
    return groups


def _said(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"*ignored: {cell}*"
    first = (cell.__doc__ or "").strip().splitlines()[0]
    return first.rstrip(".")


def ladder() -> str:
    """The rungs by verdict."""
    lines = ["| reason | rungs |", "|---|---|"]
    lines += [f"| {reason} | {' → '.join(rungs)} → fence |" for reason, rungs in RUNGS.items()]
    return "\n".join(lines) + "\n"


def configuration() -> str:
    """Every setting of every program."""
    programs = (
        ("nanny (`[nanny]`)", NannyConfig, "NANNY"),
        ("link (`[link]`)", LinkConfig, "LINK"),
        ("node-agent (`[agent]`)", AgentConfig, "AGENT"),
        ("server-stub (`[server]`)", ServerConfig, "SERVER"),
    )
    return "\n".join(f"## {name}\n\n{reference_markdown(cls, prefix)}" for name, cls, prefix in programs)


def routes() -> str:
    """Every route, with what it takes and its own problems."""
    lines = ["| route | needs | answers | takes | problems |", "|---|---|---|---|---|"]
    for route in ROUTES:
        taken = [f"`{one.name}`" for one in (*(route.query or ()), *route.headers)]
        if route.body is not None:
            taken.insert(0, f"a body, `{route.body}`")
        codes = (
            []
            if is_websocket(route)
            else [f"`{code}`" for code in problem_codes(route) if code not in ALWAYS]
        )
        cells = [route.permission, route.answers.replace("|", "\\|"), ", ".join(taken), ", ".join(codes)]
        lines.append(f"| `{route.method} {route.path}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def problems() -> str:
    """Every code of a problem document."""
    lines = ["| type | status | title |", "|---|---|---|"]
    in_order = sorted(STATUS.items(), key=lambda item: (item[1][0], item[0]))
    lines += [
        f"| `urn:nodenanny:problem:{code}` | {status} | {title} |" for code, (status, title) in in_order
    ]
    return "\n".join(lines) + "\n"


def event_types() -> str:
    """Every type of event."""
    lines = [f"| type, after `{TYPE_PREFIX}` | when | data |", "|---|---|---|"]
    for name, (occasion, fields) in EVENT_TYPES.items():
        lines.append(f"| `{name}` | {occasion} | {', '.join(f'`{field}`' for field in fields)} |")
    return "\n".join(lines) + "\n"


PARTS: dict[str, Callable[[], str]] = {
    "phases-events": phases_and_events,
    "ladder": ladder,
    "configuration": configuration,
    "node-states": node_states,
    "node-words": words,
    "probe-classes": probe_classes,
    "routes": routes,
    "problems": problems,
    "event-types": event_types,
}
DOCUMENTS = (
    ROOT / "ARCHITECTURE.md",
    ROOT / "docs" / "configuration.md",
    ROOT / "docs" / "api.md",
    ROOT / "docs" / "node-states.md",
)


def renewed(text: str) -> str:
    """The document with its generated parts as the code has them now."""
    return _PART.sub(lambda found: f"{found[1]}{PARTS[found['name']]()}{found[4]}", text)


def main() -> int:
    """Write every generated part anew."""
    for document in DOCUMENTS:
        document.write_text(renewed(document.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
