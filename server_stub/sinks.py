"""Where events may be delivered to: what a sink is, what it gets to make itself from, and which are installed.

A distribution offers one by an entry point of the group `nodenanny.sinks`: a callable that takes a `SinkContext`
and gives a `Sink`, or None if it isn't configured. One that cannot be loaded or made is logged and left out: it
keeps no server from starting. How events get there is `sink_courier.py`'s.
https://packaging.python.org/en/latest/specifications/entry-points/
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from server_stub.webhook import webhook

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from structlog.typing import FilteringBoundLogger

    from server_stub.cloud_events import CloudEvent
    from server_stub.config import ServerConfig

    MakeSink = Callable[["SinkContext"], "Sink | None"]

GROUP: Final = "nodenanny.sinks"
NAME_LENGTH: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkContext:
    """What a sink may use to make itself."""

    settings: ServerConfig
    environ: Mapping[str, str]
    log: FilteringBoundLogger


@runtime_checkable
class Sink(Protocol):
    """A taker of events, in the server's event loop: it must await, never block."""

    name: str
    """Its cursor is kept under this name: another name begins anew, behind the newest event."""

    def wants(self, event_type: str) -> bool:
        """Tell whether it takes events of this type, named without the prefix `io.nodenanny.`."""
        ...

    async def deliver(self, events: Sequence[CloudEvent]) -> None:
        """Take these events, in order; on return they are taken, and none of them comes again but by a crash.

        Raises:
            EventsRefused: it will never take these; they are tried in smaller parts, then dropped and counted.
            Exception: it couldn't take them now; they come again, later each time. `retry_after_s`, if the
                error has one, says how much later.
        """
        ...

    async def close(self) -> None:
        """Let go of what it holds; nothing is delivered any more."""
        ...


BUILT_IN: Final[Mapping[str, MakeSink]] = {"webhook": webhook}
"""There even where the server runs from its sources, with no metadata installed."""


def installed(context: SinkContext) -> list[Sink]:
    """Make all sinks that are installed and configured."""
    makers: dict[str, Callable[[], MakeSink]] = {
        name: lambda make=make: make  # type: ignore[misc]
        for name, make in BUILT_IN.items()
    }
    for point in entry_points(group=GROUP):
        if point.name not in BUILT_IN:
            makers[point.name] = point.load
    made: dict[str, Sink] = {}
    for name, load in makers.items():
        try:
            sink = load()(context)
            if sink is None:
                continue
            _check(sink, made)
        except Exception:
            context.log.exception("sink left out", sink=name)
            continue
        made[sink.name] = sink
    return list(made.values())


def _check(sink: Sink, others: Mapping[str, Sink]) -> None:
    if not isinstance(sink, Sink):
        raise TypeError(f"{sink!r} is no sink: it lacks name, wants, deliver or close")
    if not isinstance(sink.name, str) or not 0 < len(sink.name) <= NAME_LENGTH:
        raise ValueError(f"a sink's name is 1 to {NAME_LENGTH} characters, not {sink.name!r}")
    if sink.name in others:
        raise ValueError(
            f"there is a sink named {sink.name!r} already; its events would be taken for each other's"
        )
