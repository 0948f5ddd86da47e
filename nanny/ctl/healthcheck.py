"""``healthcheck``: one line and an exit code from what the nanny has in memory, for callers that cannot wait.

Slurm's HealthCheckProgram, a load balancer, a container's probe. The nanny answers from its state and asks nobody;
if it doesn't answer within the deadline, that is said, and is an exit code of its own.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from nanny.control_client import ControlClient, ControlError
from nanny.ctl import exit_codes

if TYPE_CHECKING:
    import argparse

    from nanny.ctl.node import Node
    from nanny.ctl.terminal import Terminal

DEADLINE_S: Final = 0.04


def healthcheck(options: argparse.Namespace, node: Node, terminal: Terminal) -> int:
    """Healthy or not, and why.

    Raises:
        ControlError: no answer within the deadline.
    """
    deadline = monotonic() + (options.answer_timeout or DEADLINE_S)
    with ControlClient(node.control_path, max(deadline - monotonic(), 0.001)) as client:
        told = client.request("healthcheck", timeout_s=deadline - monotonic())
        verdict = judge(
            told, allow_degraded=options.allow_degraded, fail_when_draining=options.fail_when_draining
        )
        words = verdict or f"{told.get('phase')}{', draining' if told.get('draining') else ''}"
        if verdict:
            words = f"{verdict}{_why(client, deadline)}"
    is_healthy = not verdict
    if options.json:
        terminal.json({**told, "healthy": is_healthy, "reason": words})
    else:
        word = terminal.paint("good", "healthy") if is_healthy else terminal.paint("bad", "unhealthy")
        terminal.lines([f"{word}: {words}"])
    return exit_codes.OK if is_healthy else exit_codes.NO


def judge(told: dict[str, Any], *, allow_degraded: bool, fail_when_draining: bool) -> str:
    """Why the node is unhealthy; empty when it is healthy. Pure."""
    phase = str(told.get("phase", "unknown"))
    if told.get("healthy") is not True and not (allow_degraded and phase == "degraded"):
        return phase
    if fail_when_draining and told.get("draining"):
        return f"{phase}, draining"
    return ""


def _why(client: ControlClient, deadline: float) -> str:
    """The nanny's own words, if there is time left for them."""
    from nanny.ctl.terminal import visible  # noqa: PLC0415  # loaded already

    try:
        because = client.request("status", timeout_s=max(deadline - monotonic(), 0.0)).get("because")
    except ControlError:
        return ""
    return f", {visible(str(because[0]))}" if because else ""
