"""One connection between link and server: frames on their way, and what a bad network does to them.

As over TCP, frames come in order and a partition only delays them, unless a fault says otherwise (a broken proxy in
between loses, doubles, delays or swaps them). A connection over which nothing is under way is *folded*: of its
keep-alives, one every ten seconds, only the last before the next event counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nanny.protocol.session_states import State

if TYPE_CHECKING:
    from nanny.protocol.link_session import LinkSession
    from tests.simulation.link import LinkProgram
    from tests.simulation.machine import Machine
    from tests.simulation.server import Server

LATENCY_S: Final = 0.002
KEEPALIVE_S: Final = 10.0
REPORT_S: Final = 10.0
DIAL_TIMEOUT_S: Final = 10.0
DIAL_CEILING_S: Final = 60.0


@dataclass(slots=True)
class Network:
    """The way between one node and the server."""

    parted_until: float = 0.0
    probe_blocked_until: float = 0.0
    lost: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    """Of the next frames, by way."""
    doubled: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    delayed: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    swapped: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    delay_s: float = 0.0

    def meets(self, trouble: dict[str, int], way: str) -> bool:
        """Whether the next frame meets this trouble, which is then over for one frame."""
        if not trouble[way]:
            return False
        trouble[way] -= 1
        return True


class Connection:
    """Both ends, and what is between them."""

    def __init__(self, machine: Machine, link: LinkProgram, server: Server) -> None:
        self.machine = machine
        self.link = link
        self.server = server
        self.server_session: LinkSession | None = None
        """None until Hello has told whose it is."""
        self.up_is_open = self.down_is_open = True
        """Whether link's end stands, and the server's."""
        self.is_established = False
        self.order_ids: set[str] = set()
        self._in_flight = 0
        self._last = {"up": 0.0, "down": 0.0}
        self._armed: dict[str, float] = {}
        self._quiet_since: float | None = None

    @property
    def _now(self) -> float:
        return self.machine.world.now

    # Frames

    def flush_link(self) -> None:
        """Put on the wire what link has to send."""
        if self.up_is_open:
            self._send("up", self.link.session.frames_to_send())
            self.rest()

    def flush_server(self) -> None:
        """Put on the wire what the server has to send."""
        if self.down_is_open and self.server_session is not None:
            self._send("down", self.server_session.frames_to_send())
            self.rest()

    def _send(self, way: str, frames: list[bytes]) -> None:
        network = self.machine.server.network_of(self.machine)
        for frame in frames:
            if way == "up" and (network.lost[way] or network.swapped[way]):
                # What is reported is reported again each interval; only that is not stepped while all is well.
                self.machine.after(REPORT_S, self.link.report_again)
            if network.meets(network.lost, way):
                continue
            delay_s = network.delay_s if network.meets(network.delayed, way) else 0.0
            at = max(self._now, network.parted_until) + LATENCY_S + delay_s
            if network.meets(network.swapped, way):
                at += 3 * LATENCY_S  # the next one overtakes it
            else:
                at = max(at, self._last[way])
                self._last[way] = at
            for _ in range(2 if network.meets(network.doubled, way) else 1):
                self._in_flight += 1
                self.machine.world.at(at, self._arrives, way, frame)

    def _arrives(self, way: str, frame: bytes) -> None:
        parted_until = self.machine.server.network_of(self.machine).parted_until
        if self._now < parted_until:
            self.machine.world.at(parted_until + LATENCY_S, self._arrives, way, frame)
            return
        if way == "up":
            self._in_flight -= 1
            if self.down_is_open:
                self.server.frame_came(self, frame)
        elif self.up_is_open and not self.link.dead:
            self.machine.after(0.0, self._taken, frame)
        else:
            self._in_flight -= 1

    def _taken(self, frame: bytes) -> None:
        if self.link.is_silent(self.machine.mono):
            self.machine.at_mono(self.link.hung_until, self._taken, frame)
            return
        self._in_flight -= 1
        if self.up_is_open and not self.link.dead:
            self.link.frame_came(self, frame)

    # Time

    @property
    def is_quiet(self) -> bool:
        """Whether nothing but keep-alives is to be expected."""
        theirs, ours = self.server_session, self.link.session
        if theirs is None or self._in_flight or not (self.up_is_open and self.down_is_open):
            return False
        if ours.state is not State.OPEN or theirs.state is not State.OPEN or self.link.dead:
            return False
        if not self.machine.is_awake or self.link.is_silent(self.machine.mono):
            return False
        if ours._connection.ack_at is not None or theirs._connection.ack_at is not None:
            return False
        if ours.backlog[0] or theirs.backlog[0]:
            return False
        return self._now >= self.machine.server.network_of(self.machine).parted_until

    def rest(self) -> None:
        """Fold the connection, or wait for the next thing that is due at either end."""
        if self.is_quiet:
            if self._quiet_since is None:
                self._quiet_since = self._now
            return
        self.wake()
        self._arm()

    def wake(self) -> None:
        """Something happens: up to here the keep-alives have come."""
        if self._quiet_since is None:
            return
        heard_at = self._quiet_since + KEEPALIVE_S * int((self._now - self._quiet_since) / KEEPALIVE_S)
        self._quiet_since = None
        age_s = self._now - heard_at
        self.link.session._connection.keepalive.heard(self.machine.mono - age_s)
        if self.server_session is not None:
            self.server_session._connection.keepalive.heard(heard_at)
        self._arm()

    def _arm(self) -> None:
        ours = self.link.session.next_deadline() if self.up_is_open else None
        if ours is not None and self._armed.get("up", 1e18) > ours:
            self._armed["up"] = ours
            self.machine.at_mono(ours, self._link_due)
        theirs = None
        if self.down_is_open and self.server_session is not None:
            theirs = self.server_session.next_deadline()
        if theirs is not None and self._armed.get("down", 1e18) > theirs:
            self._armed["down"] = theirs
            self.machine.world.at(theirs, self._server_due)

    def _link_due(self) -> None:
        self._armed.pop("up", None)
        if not self.up_is_open or self.link.dead or self._quiet_since is not None:
            return
        if self.link.is_silent(self.machine.mono):
            self.machine.at_mono(self.link.hung_until + LATENCY_S, self._link_due)
            return
        self.link.session_is_due(self)
        self.rest()

    def _server_due(self) -> None:
        self._armed.pop("down", None)
        if self.down_is_open and self.server_session is not None and self._quiet_since is None:
            self.server.session_is_due(self)
            self.rest()

    # Ends

    def link_hangs_up(self, *, silently: bool = False) -> None:
        """Link's end is gone; the server hears of it unless the whole machine is."""
        if not self.up_is_open:
            return
        self.wake()
        self.up_is_open = False
        if self.link.session.state is not State.OFFLINE:
            self.link.session.connection_lost()
        if silently:
            self._arm()
            return
        parted_until = self.machine.server.network_of(self.machine).parted_until
        at = max(self._now + LATENCY_S, parted_until, self._last["up"]) + LATENCY_S
        self.machine.world.at(at, self._server_loses)

    def _server_loses(self) -> None:
        if self.down_is_open:
            self.server.connection_lost(self)

    def server_hangs_up(self) -> None:
        """The server's end is gone."""
        if not self.down_is_open:
            return
        self.wake()
        self.down_is_open = False
        if self.server_session is not None and self.server_session.state is not State.OFFLINE:
            self.server_session.connection_lost()
        parted_until = self.machine.server.network_of(self.machine).parted_until
        at = max(self._now + LATENCY_S, parted_until, self._last["down"]) + LATENCY_S
        self.machine.world.at(at, self._link_loses)

    def _link_loses(self) -> None:
        self.machine.after(0.0, self.link.connection_lost, self)

    def cut(self) -> None:
        """A reset from the network: both ends lose it, and all that is on its way."""
        self.link_hangs_up()
        self.server_hangs_up()
