"""From a selection to its nodes, by name or id, or by label; and the life that a command for one is aimed at.

All that are named must be there; a selection of nobody is refused, since whoever meant nobody would not ask.
Knows no HTTP and no command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nanny.protocol.incarnation import Incarnation
from server_stub.problems import Problem
from server_stub.store import nodes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncSession

    from server_stub.arrivals import Arrivals
    from server_stub.command_request import Selection
    from server_stub.store.nodes import NodeRecord

SHOWN: Final = 10


async def choose(session: AsyncSession, selection: Selection) -> list[NodeRecord]:
    """Give the selected nodes, by name; at least one.

    Raises:
        Problem: `no-such-node` names those that are not there, or are two; `nothing-selected`.
    """
    records = await nodes.read(session)
    if selection.names is None:
        selector = selection.selector
        assert selector is not None
        found = [record for record in records if selector.matches(record.effective_labels)]
        if not found:
            raise Problem(
                "nothing-selected", f"none of {len(records)} nodes has labels like {selection.text!r}"
            )
        return found
    by_id = {record.id: record for record in records}
    by_name: dict[str, list[NodeRecord]] = {}
    for record in records:
        by_name.setdefault(record.name, []).append(record)
    chosen: dict[str, NodeRecord] = {}
    strange = []
    for name in selection.names:
        named = [by_id[name]] if name in by_id else by_name.get(name, [])
        if len(named) != 1:
            strange.append(name)
        else:
            chosen[named[0].id] = named[0]
    if strange:
        raise Problem("no-such-node", f"no node, or more than one, is called {some_of(strange)}")
    return sorted(chosen.values(), key=lambda record: (record.name, record.id))


def some_of(names: Iterable[str]) -> str:
    """Give the first names, and how many more there are."""
    listed = [name[:128] for name in names]
    more = len(listed) - SHOWN
    return ", ".join(map(repr, listed[:SHOWN])) + (f" and {more} more" if more > 0 else "")


def known_incarnation(record: NodeRecord, arrivals: Arrivals) -> Incarnation | None:
    """Give the life that the node's nanny runs now, else the one that registered last; None: none is known."""
    nanny = arrivals.nanny
    if nanny is not None and nanny.incarnation is not None:
        return nanny.incarnation
    return None if record.incarnation is None else Incarnation.parse(record.incarnation)
