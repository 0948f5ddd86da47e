"""A core that runs, for targets that feed it: brought to `running` by the events that would bring it there.

`SteppedCore` stands where the supervisor stands, without journal and processes: it takes steps, and hands to whoever
registered for them the actions that report. Knows nothing of sockets.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nanny.core import events as e
from nanny.core.actions import Action, DeferCommand, ReportAccepted, ReportOutcome
from nanny.core.config import PolicyConfig
from nanny.core.policy import step
from nanny.core.state import NannyState, Phase

if TYPE_CHECKING:
    from nanny.control import ControlSocket

NOW = 100.0


def running(config: PolicyConfig, now: float) -> NannyState:
    """A state with a worker that has said READY=1."""
    state = step(NannyState(epoch="e", spare_epoch="f"), e.NannyStarted(), now, config).state
    state = step(state, e.NumbersConfirmed(state.epoch, 64), now, config).state
    assert state.incarnation is not None, state
    state = step(state, e.WorkerParked(state.incarnation, 4711, 1), now, config).state
    assert state.incarnation is not None
    state = step(state, e.HeartbeatReceived(state.incarnation, watchdog=True, ready=True), now, config).state
    assert state.phase is Phase.RUNNING, state.phase
    return state


class SteppedCore:
    """The supervisor's face towards the control socket."""

    def __init__(self) -> None:
        self.config = PolicyConfig()
        self._born = self.state = running(self.config, NOW)
        self.on_step: list[Callable[..., None]] = []
        self._effects: dict[type[Action], Callable[[Any], None]] = {}

    def reset(self) -> None:
        """Forget all that was told."""
        self.state = self._born

    def effect(self, action: type[Action], run: Callable[[Any], None]) -> None:
        """Say who carries out an action."""
        self._effects[action] = run

    def tell(self, event: e.Event) -> None:
        """Take the step and run the actions that somebody wants."""
        before, result = self.state, step(self.state, event, NOW, self.config)
        self.state = result.state
        for observe in self.on_step:
            observe(before, self.state, result.records)
        for action in result.actions:
            if isinstance(action, ReportAccepted | ReportOutcome | DeferCommand):
                self._effects[type(action)](action)


def serve_requests(control: "ControlSocket", core: SteppedCore) -> None:
    """Answer what a nanny answers."""
    from nanny import view
    from nanny.control_requests import ControlRequests

    ControlRequests(control, core, lambda: view.status(core.state, NOW, core.config))  # type: ignore[arg-type]
