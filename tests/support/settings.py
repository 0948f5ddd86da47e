"""A configuration class with one setting of each type, for the tests of settings."""

from collections.abc import Iterator
from dataclasses import dataclass

from nanny.common.settings import Problem, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleConfig:
    """What an imaginary program can be told."""

    heartbeat_timeout_s: float = setting(
        6.0,
        help="Silence after which the worker is lost.",
        minimum=0.1,
        maximum=3600,
        reloadable=True,
        section="liveness",
    )
    evidence_s: float = setting(1.5, help="Time for evidence.", minimum=0, section="liveness")
    poll_ms: int = setting(250, help="Between two looks.", minimum=1, section="liveness")
    state_dir: str = setting("/var/lib/nodenanny", help="Where state is kept.")
    server_url: str | None = setting(None, help="The server | none.", reloadable=True)
    orphan_timeout_s: float | None = setting(None, help="Life without a nanny.", minimum=1)
    mode: str = setting("watchdog", help="What the program sends.", choices=("watchdog", "ready", "none"))
    command: tuple[str, ...] = setting((), help="The program and its arguments.")
    allowed: tuple[str, ...] = setting(("restart",), help="Commands.", choices=("restart", "stop"))
    labels: dict[str, str] = setting({}, help="Labels of the node.")
    evidence_bytes: int = setting(200 * 2**20, help="Kept at most: 100% of it.", minimum=1)
    debug: bool = setting(False, help="Say more.")
    token: str | None = setting(None, help="Proves who we are.", secret=True)


def check_example(config: ExampleConfig) -> Iterator[Problem]:
    """The one combination that cannot work."""
    if config.heartbeat_timeout_s + config.evidence_s > 9:
        yield Problem("heartbeat_timeout_s", None, "9 at most with evidence_s", also=("evidence_s",))
