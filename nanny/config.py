"""The nanny's settings: every key with its default, range and meaning; the reference in docs/ is generated here.

Files, environment and flags are read by ``nanny.cli`` in a process of its own; the supervising process gets the
resolved values as JSON. ``check`` holds what must be true of several keys together.
"""

from __future__ import annotations

from dataclasses import dataclass

from nanny import fault_point
from nanny.common.settings import Problem, setting
from nanny.core.events import CommandKind

PROMISED_DETECTION_S = 9.0
"""A hang has to be detected, documented and ended before the server's 10 s budget runs out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NannyConfig:
    """Settings of ``nanny run``."""

    node_name: str = setting("", help="Name of this node; empty takes the host name.", section="node")
    state_dir: str = setting(
        "/var/lib/nodenanny", help="Journal, identity, lock and evidence; survives reboots.", section="node"
    )
    runtime_dir: str = setting(
        "/run/nodenanny", help="Sockets and the facts needed for adoption; must be tmpfs.", section="node"
    )
    log_dir: str | None = setting(
        None, help="Keep the nanny's and the worker's output in rotated files here, too.", section="node"
    )
    log_max_bytes: int = setting(16 << 20, help="Size of one log file.", minimum=65536, section="node")

    command: tuple[str, ...] = setting(
        (), help="The program to supervise and its arguments.", section="worker"
    )
    heartbeat: str = setting(
        "watchdog",
        help="What the program sends: heartbeats (WATCHDOG=1), only READY=1, or nothing.",
        choices=("watchdog", "ready", "none"),
        section="worker",
    )
    notify_access: str = setting(
        "main",
        help="Whose datagrams count: the main process's or any process's that knows the socket.",
        choices=("main", "all"),
        section="worker",
    )
    working_directory: str | None = setting(None, help="Where the program starts.", section="worker")
    environment: dict[str, str] = setting({}, help="Variables set for the program.", section="worker")
    worker_user: str | None = setting(None, help="User to run the program as.", section="worker")
    worker_oom_score_adj: int | None = setting(
        None, help="OOM score adjustment of the program.", minimum=-1000, maximum=1000, section="worker"
    )
    output_backlog_bytes: int = setting(
        1 << 20,
        help="Output kept while no nanny reads it; a program that fills it waits.",
        minimum=4096,
        maximum=1 << 30,
        section="worker",
    )
    standby: str = setting(
        "auto",
        help="A standby worker that takes over within milliseconds: on for programs that park "
        "(docs/standby.md), auto for node-agent alone.",
        choices=("auto", "on", "off"),
        section="worker",
    )
    standby_after_s: float = setting(
        30.0,
        help="A standby is made once the worker has been ready for so long.",
        minimum=0,
        reloadable=True,
        section="worker",
    )
    standby_answer_timeout_s: float = setting(
        0.2,
        help="A standby that does not answer within this time is given up for a cold start.",
        minimum=0.01,
        reloadable=True,
        section="worker",
    )
    standby_max_age_s: float = setting(
        21600.0,
        help="A standby that has waited for so long is replaced.",
        minimum=1,
        reloadable=True,
        section="worker",
    )
    standby_min_available_bytes: int = setting(
        512 << 20,
        help="A standby is dropped while the node has less memory available.",
        minimum=0,
        reloadable=True,
        section="worker",
    )
    memory_limit_bytes: int | None = setting(
        None,
        help="Resident memory over which the program is restarted; not set: never.",
        minimum=1 << 20,
        reloadable=True,
        section="worker",
    )

    host: str = setting("127.0.0.1", help="Address of the worker's /healthz.", section="health socket")
    port: int | None = setting(
        None,
        help="Port of the worker's /healthz, bound by the nanny and inherited; 0 takes any, not set: none.",
        minimum=0,
        maximum=65535,
        section="health socket",
    )
    fallback_after_s: float = setting(
        1.0, help="A connection unaccepted for so long is answered 503.", minimum=0.1, section="health socket"
    )

    link: str = setting(
        "off",
        help="Who starts link: the nanny (child), a unit of its own (unit), or nobody (off).",
        choices=("child", "unit", "off"),
        section="link",
    )
    link_command: tuple[str, ...] = setting(
        (), help="How link is started; empty: as installed.", section="link"
    )
    link_user: str | None = setting(None, help="User that link runs as.", section="link")
    link_environment: dict[str, str] = setting(
        {}, help="Variables set for link (LINK_SERVER_URL …).", section="link"
    )
    allowed_from_server: tuple[str, ...] = setting(
        tuple(str(kind) for kind in CommandKind),
        help="Kinds of command that the server may order.",
        choices=tuple(str(kind) for kind in CommandKind),
        reloadable=True,
        section="link",
    )
    server_restarts_per_hour: int = setting(
        12, help="Restarts the server may order in an hour.", minimum=0, reloadable=True, section="link"
    )
    server_commands_per_hour: int = setting(
        240, help="Commands the server may send in an hour.", minimum=0, reloadable=True, section="link"
    )

    heartbeat_interval_s: float = setting(
        2.0, help="How often the program is told to send beats.", minimum=0.05, section="liveness"
    )
    heartbeat_timeout_s: float = setting(
        6.0, help="Silence after which a worker counts as lost.", minimum=0.1, section="liveness"
    )
    stall_warn_s: float = setting(
        5.0, help="Loop lag that makes the phase degraded.", minimum=0.05, reloadable=True, section="liveness"
    )
    stall_timeout_s: float = setting(
        30.0, help="Loop lag that counts as stalled.", minimum=0.1, reloadable=True, section="liveness"
    )
    expect_limit_s: float = setting(
        600.0,
        help="Announced known-long work honoured in one incarnation.",
        minimum=0,
        reloadable=True,
        section="liveness",
    )
    starvation_limit_s: float = setting(
        60.0,
        help="The most by which one silence is extended for a starved node.",
        minimum=0,
        reloadable=True,
        section="liveness",
    )
    start_timeout_s: float = setting(
        60.0, help="From birth to READY=1.", minimum=0.1, reloadable=True, section="recovery"
    )
    stop_grace_s: float = setting(
        30.0, help="From SIGTERM to SIGABRT.", minimum=0, reloadable=True, section="recovery"
    )
    evidence_timeout_s: float = setting(
        1.5, help="For evidence before a kill.", minimum=0, reloadable=True, section="recovery"
    )
    abort_grace_s: float = setting(
        1.0, help="From SIGABRT to SIGKILL.", minimum=0, reloadable=True, section="recovery"
    )
    unkillable_timeout_s: float = setting(
        60.0, help="From SIGKILL to the fence.", minimum=0.1, reloadable=True, section="recovery"
    )
    backoff_initial_s: float = setting(
        1.0,
        help="Wait after the second failure in a row; there is none after the first.",
        minimum=0,
        reloadable=True,
        section="recovery",
    )
    backoff_factor: float = setting(
        2.0, help="Growth of the wait.", minimum=1, maximum=10, reloadable=True, section="recovery"
    )
    backoff_ceiling_s: float = setting(
        300.0, help="The longest wait.", minimum=0.1, reloadable=True, section="recovery"
    )
    stable_after_s: float = setting(
        300.0,
        help="Healthy time after which failures are forgotten.",
        minimum=0,
        reloadable=True,
        section="recovery",
    )
    crash_loop_after: int = setting(
        6,
        help="Failures in a row that make the phase failed.",
        minimum=2,
        reloadable=True,
        section="recovery",
    )

    evidence_keep: int = setting(20, help="Bundles kept.", minimum=1, reloadable=True, section="evidence")
    evidence_keep_bytes: int = setting(
        200 << 20, help="Size of all bundles together.", minimum=1 << 20, reloadable=True, section="evidence"
    )
    clock_offsets: str | None = setting(
        None,
        help="For tests only: a file with seconds to add to wall time and boottime (see nanny/linux/clocks.py).",
        section="journal",
    )
    fault_point: str | None = setting(
        None,
        help="For tests only: the nanny signals itself at this place (see nanny/fault_point.py).",
        section="journal",
    )
    journal_timeout_s: float = setting(
        1.0, help="Wait for the disk before the journal counts as degraded.", minimum=0.05, section="journal"
    )

    control_users: tuple[str, ...] = setting(
        (), help="Users besides root and the nanny's own that may order anything.", section="control"
    )
    control_observers: tuple[str, ...] = setting(
        (), help="Users that may look and not order.", section="control"
    )
    sockets_group: str | None = setting(
        None, help="Group that may open the control socket.", section="control"
    )


def check(config: NannyConfig) -> tuple[Problem, ...]:
    """What is wrong with the combination of several keys."""
    problems = []
    detection_s = config.heartbeat_timeout_s + config.evidence_timeout_s + config.abort_grace_s
    if detection_s > PROMISED_DETECTION_S:
        problems.append(
            Problem(
                "heartbeat_timeout_s",
                config.heartbeat_timeout_s,
                f"heartbeat_timeout_s + evidence_timeout_s + abort_grace_s = {detection_s:g} s must be at most "
                f"{PROMISED_DETECTION_S:g} s, so that the server's 10 s budget never sees a hang",
            )
        )
    if config.heartbeat_timeout_s < 2 * config.heartbeat_interval_s:
        problems.append(
            Problem(
                "heartbeat_timeout_s",
                config.heartbeat_timeout_s,
                f"at least twice heartbeat_interval_s ({config.heartbeat_interval_s:g} s): one lost beat is no hang",
            )
        )
    if config.stall_warn_s >= config.stall_timeout_s:
        problems.append(
            Problem(
                "stall_warn_s",
                config.stall_warn_s,
                f"less than stall_timeout_s ({config.stall_timeout_s:g} s)",
            )
        )
    if config.backoff_initial_s > config.backoff_ceiling_s:
        problems.append(
            Problem(
                "backoff_initial_s",
                config.backoff_initial_s,
                f"at most backoff_ceiling_s ({config.backoff_ceiling_s:g} s)",
            )
        )
    if config.fault_point is not None and not fault_point.is_place(config.fault_point):
        expected = f"one of {', '.join(fault_point.PLACES)}, or after-WHAT-N"
        problems.append(Problem("fault_point", config.fault_point, expected))
    for key, longest in (("state_dir", 200), ("runtime_dir", 80)):
        value = getattr(config, key)
        if not value.startswith("/"):
            problems.append(Problem(key, value, "an absolute path: the working directory may change"))
        elif len(value) > longest:
            problems.append(Problem(key, value, f"at most {longest} characters (socket paths end at 107)"))
    return tuple(problems)
