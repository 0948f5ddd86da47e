"""Waits until nothing has been wrong with a node for as long as its bounds are, and then asks.

Every fault says how long it lasts; a node whose last one is over is *calm*. Not before the bound on darkness has passed
in calm is the node asked to serve, and not before the bound on news has passed as well, whether the server knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation import bounds
from tests.simulation.wire import DIAL_CEILING_S, DIAL_TIMEOUT_S, KEEPALIVE_S

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from tests.simulation.server import Server


class Patience:
    """For all nodes of a fleet."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._world = server.world
        self._benign_at: dict[str, float] = {}
        self._is_watched: set[str] = set()

    def troubled(self, machine: Machine, until: float) -> None:
        """Something is wrong with this node's world until then."""
        name, server = machine.name, self._server
        self._benign_at[name] = max(self._benign_at.get(name, 0.0), until)
        server.probe_soon(machine)
        self._world.at(until, server.probe_soon, machine)
        if name not in self._is_watched:
            self._is_watched.add(name)
            self._world.at(self._benign_at[name], self._grows_calm, machine)

    def postponed(self, machine: Machine, by_s: float) -> None:
        """The machine's clock stood still: what is wrong with it lasts so much longer."""
        benign_at = self._benign_at.get(machine.name, 0.0)
        self.troubled(machine, max(benign_at, self._world.now) + by_s)

    def _grows_calm(self, machine: Machine) -> None:
        benign_at, now = self._benign_at[machine.name], self._world.now
        state = machine.state
        if benign_at > now or state is None:
            self._world.at(max(benign_at, now + 1.0), self._grows_calm, machine)
            return
        failures = state.worker.failures
        self._world.at(
            now + bounds.dark_s(machine.config, failures), self._must_serve, machine, now, failures
        )

    def _must_serve(self, machine: Machine, calm_at: float, failures: int) -> None:
        if self._benign_at[machine.name] > calm_at:
            self._world.at(self._benign_at[machine.name], self._grows_calm, machine)
            return
        machine.oracles.must_serve(machine, failures)
        told_s = bounds.told_s(machine.config, KEEPALIVE_S, DIAL_CEILING_S, DIAL_TIMEOUT_S)
        self._world.after(told_s, self._must_be_told, machine, calm_at)

    def _must_be_told(self, machine: Machine, calm_at: float) -> None:
        if self._benign_at[machine.name] > calm_at:
            self._world.at(self._benign_at[machine.name], self._grows_calm, machine)
            return
        self._is_watched.discard(machine.name)
        self._server.judge(machine)
        machine.oracles.must_rest(machine)
        machine.oracles.must_be_told(machine, self._server.rows[machine.name])
