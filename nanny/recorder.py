"""The flight recorder: the latest events that the core saw, with their times and what was decided on them.

A ring of sealed pieces and one that is being filled. Each piece begins with the whole state, so any of them can be
the first; sealed, it is a gzip member of JSON lines, so that the pieces one after the other are one file for zcat(1).
Memory only: ``nannyctl replay`` asks for it, each evidence bundle gets a copy, a crash of the nanny loses it (the
journal has what was decided). RFC 1952.

Lines: ``{"recording": 1, "at": …, "wall": …, "config": {…}, "state": {…}}``, then ``[at, event]`` where nothing
followed, else ``[at, event, records, actions]``. Times are CLOCK_MONOTONIC seconds.
"""

from __future__ import annotations

import json
import zlib
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from nanny.core.plain_values import named, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nanny.core.config import PolicyConfig
    from nanny.core.draft import Step
    from nanny.core.events import Event
    from nanny.core.state import NannyState

FORMAT: Final = 1
_PIECE_MOMENTS: Final = 128
_PIECES: Final = 32
_GZIP: Final = 31
"""``wbits`` for a gzip header."""


class FlightRecorder:
    """Remembers the last 4,096 events; fewer after many reloads, for each begins a piece with the new settings."""

    def __init__(self, wall_s: Callable[[], float], version: str, node_name: str) -> None:
        self._wall_s = wall_s
        self._about = {"recording": FORMAT, "version": version, "node": node_name}
        self._sealed: deque[bytes] = deque(maxlen=_PIECES)
        self._moments: list[tuple[float, Event, Step]] = []
        self._start: dict[str, Any] = {}
        self._before: NannyState | None = None
        self._config: PolicyConfig | None = None

    def note(self, before: NannyState, event: Event, now: float, config: PolicyConfig, result: Step) -> None:
        """Keep one step. Cheap: it is written out when the piece is full."""
        if self._config is not config or len(self._moments) >= _PIECE_MOMENTS:
            if self._moments:
                self._sealed.append(self._rendered())
                self._moments.clear()
            self._config = config
            self._before = before
            self._start = {**self._about, "at": now, "wall": round(self._wall_s(), 3)}
        self._moments.append((now, event, result))

    def dump(self) -> bytes:
        """All of it, as one gzip file; empty before the first event."""
        return b"".join(self._sealed) + (self._rendered() if self._moments else b"")

    def _rendered(self) -> bytes:
        packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
        lines = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in self._lines())
        return packer.compress(lines.encode()) + packer.flush()

    def _lines(self) -> Iterator[Any]:
        yield {**self._start, "config": plain(self._config), "state": plain(self._before)}
        for at, event, result in self._moments:
            if result.records or result.actions:
                yield [
                    at,
                    named(event),
                    [named(one) for one in result.records],
                    [named(one) for one in result.actions],
                ]
            else:
                yield [at, named(event)]
