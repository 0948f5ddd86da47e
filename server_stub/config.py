"""The server's settings: defaults that run on loopback with nothing configured.

`check` holds what combinations must not be: thresholds that would make nodes flap, an address that lets
strangers in. Where values come from, `nanny.common.settings_loading` knows.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from nanny.common.settings import Problem, setting
from server_stub import fault_point
from server_stub.log import LEVELS

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX: Final = "SERVER"
SHARED_KEYS: Final = frozenset({"server_url"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """All settings of `server-stub`."""

    host: str = setting(
        "127.0.0.1", help="Address to listen on; loopback, unless insecure_bind.", section="api"
    )
    port: int = setting(
        8470, help="Port to listen on; 0 takes a free one.", minimum=0, maximum=65535, section="api"
    )
    port_file: str | None = setting(
        None, help="File that gets the bound port, once it is open.", section="api"
    )
    insecure_bind: bool = setting(
        False,
        help="Listen beyond loopback although nodes and clients have no credentials yet.",
        section="api",
    )

    data_dir: str | None = setting(
        None,
        help="Directory of the database; by default nodenanny-server in $XDG_STATE_HOME.",
        section="storage",
    )
    database: str | None = setting(
        None,
        help="Path of a SQLite file, or a database URL; by default server.sqlite3 in data_dir.",
        section="storage",
    )

    probe_interval_s: float = setting(
        15.0, help="How often each node is probed.", minimum=0.05, section="syncer"
    )
    probe_budget_s: float = setting(
        10.0,
        help="How long one check may try before the node is unreachable.",
        minimum=0.05,
        section="syncer",
    )
    probe_try_timeout_s: float = setting(
        2.5, help="How long a single try within a check may take.", minimum=0.01, section="syncer"
    )
    probe_concurrency: int = setting(
        10000,
        help="Checks under way at a time; when all nodes fail, nodes x probe_budget_s / probe_interval_s of them.",
        minimum=1,
        section="syncer",
    )
    offline_timeout_s: float = setting(
        100.0, help="Without any sign for so long a node is NOT_READY.", minimum=0.1, section="syncer"
    )
    silence_timeout_s: float = setting(
        30.0,
        help="Without its link or its worker's connection for so long a node is DEGRADED.",
        minimum=0.05,
        section="syncer",
    )

    sightings_interval_s: float = setting(
        30.0,
        help="How often the times at which nodes were last seen are written, all together.",
        minimum=0.05,
        section="syncer",
    )

    demotion_brake_share: float = setting(
        0.5,
        help="Demotions freeze when this share of the fleet turns bad within demotion_brake_window_s.",
        minimum=0.01,
        maximum=1.0,
        section="brakes",
    )
    demotion_brake_nodes: int = setting(
        10, help="And at least so many nodes turn bad.", minimum=1, section="brakes"
    )
    demotion_brake_fleet: int = setting(
        20, help="And the fleet has at least so many nodes.", minimum=1, section="brakes"
    )
    demotion_brake_window_s: float = setting(300.0, help="Within so long.", minimum=0.1, section="brakes")

    repair: str = setting(
        "dry-run",
        help="Whether stalled or silent workers are restarted by the server; dry-run only says what it would do.",
        choices=("off", "dry-run", "on"),
        section="repair",
    )
    repair_after_s: float = setting(
        90.0,
        help="A worker that stalls for longer than this is the server's to repair; above the nanny's own ladder.",
        minimum=0.1,
        section="repair",
    )
    repair_node_interval_s: float = setting(
        900.0, help="At most one repair of a node in so long.", minimum=0.1, section="repair"
    )
    repair_node_daily: int = setting(
        3, help="At most so many repairs of a node in a day.", minimum=0, section="repair"
    )
    repair_fleet_window_s: float = setting(
        600.0, help="The fleet's budget of repairs is for so long.", minimum=0.1, section="repair"
    )
    repair_fleet_share: float = setting(
        0.01,
        help="At most this share of the fleet is repaired within the window, one node at least.",
        minimum=0.0,
        maximum=1.0,
        section="repair",
    )

    events_kept_s: float = setting(
        30 * 86400.0, help="Events older than this are dropped.", minimum=60.0, section="events"
    )
    events_limit: int = setting(
        1_000_000, help="Of more events than this the oldest are dropped.", minimum=100, section="events"
    )
    webhook_url: str | None = setting(
        None, help="Events are posted to this URL, as CloudEvents in JSON.", section="events"
    )
    webhook_types: str = setting(
        "", help="Only events whose type begins with one of these, comma-separated.", section="events"
    )

    evidence_limit_mib: int = setting(
        1024, help="Uploaded evidence bundles may take so much of data_dir.", minimum=1, section="evidence"
    )

    keepalive_interval_s: float = setting(
        10.0,
        help="Ping a connection after so much silence; given up after three times that.",
        minimum=0.05,
        maximum=3600.0,
        section="connections",
    )
    report_interval_s: float = setting(
        10.0,
        help="How often links and workers report when nothing changes.",
        minimum=0.05,
        maximum=3600.0,
        section="connections",
    )
    hello_timeout_s: float = setting(
        10.0, help="How long a new connection may stay silent.", minimum=0.05, section="connections"
    )
    connections_limit: int = setting(
        15000, help="Connections of links and workers at a time.", minimum=1, section="connections"
    )

    nodes_limit: int = setting(
        50000,
        help="Nodes that the server keeps; a new one above it is refused.",
        minimum=1,
        section="connections",
    )

    log_level: str = setting("info", help="What is logged.", choices=LEVELS, section="log")

    fault_point: str | None = setting(
        None,
        help="For tests only: after-N kills the server at the N-th place (see server_stub/fault_point.py).",
        section="tests",
    )


def check(config: ServerConfig) -> Iterator[Problem]:
    """Give what must not be together, with the arithmetic."""
    if config.fault_point is not None and not fault_point.is_setting(config.fault_point):
        yield Problem("fault_point", config.fault_point, "after-N with a whole number from 1")
    if 2 * config.probe_try_timeout_s > config.probe_budget_s:
        yield Problem(
            "probe_try_timeout_s",
            config.probe_try_timeout_s,
            f"at most {config.probe_budget_s / 2:g}, that is probe_budget_s / 2: a single failed try is nothing, so "
            "two have to fit in the budget",
            also=("probe_budget_s",),
        )
    beats = config.offline_timeout_s - config.probe_budget_s
    if beats < 2 * config.probe_interval_s:
        yield Problem(
            "offline_timeout_s",
            config.offline_timeout_s,
            f"at least {config.probe_budget_s + 2 * config.probe_interval_s:g}, that is probe_budget_s + "
            "2 x probe_interval_s: with fewer chances nodes would flap",
            also=("probe_budget_s", "probe_interval_s"),
        )
    if config.offline_timeout_s < 3 * config.report_interval_s:
        yield Problem(
            "offline_timeout_s",
            config.offline_timeout_s,
            f"at least {3 * config.report_interval_s:g}, that is 3 x report_interval_s: a node that is only heard, "
            "not probed, would flap with each report that is late",
            also=("report_interval_s",),
        )
    told_after_s = config.probe_interval_s + config.probe_budget_s
    if config.demotion_brake_window_s < told_after_s:
        yield Problem(
            "demotion_brake_window_s",
            config.demotion_brake_window_s,
            f"at least {told_after_s:g}, that is probe_interval_s + probe_budget_s: nodes that vanish at once are "
            "found out one by one over so long",
            also=("probe_interval_s", "probe_budget_s"),
        )
    if config.repair_after_s < told_after_s:
        yield Problem(
            "repair_after_s",
            config.repair_after_s,
            f"at least {told_after_s:g}, that is probe_interval_s + probe_budget_s: one stalled answer must not "
            "restart a worker",
            also=("probe_interval_s", "probe_budget_s"),
        )
    if config.silence_timeout_s > config.offline_timeout_s:
        yield Problem(
            "silence_timeout_s",
            config.silence_timeout_s,
            "at most offline_timeout_s: DEGRADED comes before NOT_READY",
            also=("offline_timeout_s",),
        )
    if config.webhook_url is not None:
        parts = urlsplit(config.webhook_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            yield Problem("webhook_url", config.webhook_url, "a URL such as https://example.org/events")
    if not is_loopback(config.host) and not config.insecure_bind:
        yield Problem(
            "host",
            config.host,
            "a loopback address such as 127.0.0.1 or ::1: nodes and clients have no credentials yet, so "
            "anyone who reaches this port could restart every worker; --insecure-bind accepts that",
            also=("insecure_bind",),
        )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
