"""The nanny's status and link's own counters as Prometheus text: base units, one HELP and TYPE a family.

Link serves it so that it exists while no worker lives. While there is no nanny either, what only it knows is absent:
no series stands for "unknown" with a number. Label values are escaped; their number is bounded because the
status is. Pure. Prometheus' text-based exposition format 0.0.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from nanny.link.counters import Counters

    Samples = Iterable[tuple[Mapping[str, str], float]]
    Family = tuple[str, str, str, Samples]
    """Name without prefix, type, help, samples."""

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PHASES: Final = ("down", "starting", "running", "degraded", "stopping", "backoff", "failed")
STAGES: Final = ("absent", "spawning", "starting", "ready", "backoff")
_FAMILY_LIMIT: Final = 256

_NANNY_NUMBERS: Final = (
    ("worker", "age_s", "worker_stage_age_seconds", "gauge", "Since the worker entered its stage."),
    ("worker", "beat_age_s", "worker_beat_age_seconds", "gauge", "Since the worker's last heartbeat."),
    ("worker", "loop_lag_s", "worker_loop_lag_seconds", "gauge", "Lag of the worker's event loop, as it said last."),
    ("worker", "failures", "worker_failures", "gauge", "Failures of the worker in a row."),
    ("link", "failures", "link_failures", "gauge", "Failures of link in a row, where the nanny starts it."),
    ("hold", "remaining_s", "hold_remaining_seconds", "gauge", "For how long involuntary kills are still held."),
    ("last_restart", "age_s", "last_restart_age_seconds", "gauge", "Since the last restart of the worker."),
    ("desired", "age_s", "desired_age_seconds", "gauge", "Since the desired state was set."),
    ("nanny", "age_s", "nanny_uptime_seconds", "gauge", "Since the nanny started, or executed itself anew."),
    ("nanny", "late_s", "nanny_late_seconds", "gauge", "By how much the nanny's last timer was late."),
    ("nanny", "reexecuted", "nanny_reexecutions_total", "counter", "Times the nanny executed itself anew."),
    ("nanny", "steps_total", "nanny_steps_total", "counter", "Events that the nanny decided upon."),
    ("nanny", "errors_total", "nanny_errors_total", "counter", "Errors that the nanny survived."),
    ("nanny", "violations_total", "nanny_violations_total", "counter", "Invariants of the nanny found broken."),
    ("counters", "incarnations_total", "incarnations_total", "counter", "Lives of the worker that were started."),
    ("counters", "fenced_total", "fenced_total", "counter", "Lives of the worker that were fenced."),
    ("counters", "beats_total", "beats_total", "counter", "Heartbeats of the worker."),
    ("counters", "fallback_answers_total", "fallback_answers_total", "counter", "Probes answered by the nanny."),
    ("counters", "control_refused_total", "control_refused_total", "counter", "Requests and peers refused."),
    ("counters", "log_lines_dropped_total", "log_lines_dropped_total", "counter", "Log lines lost by the nanny."),
    ("standby", "age_s", "standby_age_seconds", "gauge", "Since the standby worker was made."),
    ("standby", "made_total", "standby_made_total", "counter", "Standby workers that were made."),
    ("standby", "promoted_total", "standby_promotions_total", "counter", "Standby workers that became the worker."),
    ("standby", "cold_total", "standby_cold_starts_total", "counter", "Lives from cold although standbys are on."),
    ("standby", "failed_total", "standby_failures_total", "counter", "Standby workers that ended by themselves."),
    ("counters", "journal_bytes", "journal_bytes", "gauge", "Size of the journal."),
)  # fmt: skip
_NANNY_MAPPINGS: Final = (
    ("ends_total", "restarts_total", "reason", "Ends of the worker, by reason."),
    ("command_outcomes_total", "command_outcomes_total", "outcome", "Commands that ended, by outcome."),
    ("evidence_total", "evidence_total", "result", "Collections of evidence, by result."),
)
_OWN_NUMBERS: Final = (
    ("connections_total", "Sessions established with the server."),
    ("frames_received_total", "Frames from the server."),
    ("frames_sent_total", "Frames to the server."),
    ("bytes_received_total", "Bytes in frames from the server."),
    ("bytes_sent_total", "Bytes in frames to the server."),
    ("violations_total", "Times the server broke the protocol."),
    ("orders_total", "Orders from the server, repeated ones included."),
    ("deferrals_total", "Times the nanny put an order off."),
    ("outcomes_sent_total", "Outcomes told to the server, repeated ones included."),
    ("reports_sent_total", "Reports to the server."),
    ("nanny_connections_total", "Connections to the nanny that were subscribed."),
    ("pushes_refused_total", "Lines from the nanny that were not understood."),
)


def render(
    status: Mapping[str, Any] | None,
    counters: Counters,
    *,
    is_server_connected: bool,
    orders_held: int,
    log_lines_dropped: int,
) -> str:
    """Give the whole text.

    Args:
        status: the nanny's, of now; None while it does not answer.
        counters: link's own.
        is_server_connected: whether messages flow to and from the server.
        orders_held: orders that no nanny has answered yet.
        log_lines_dropped: log lines that link lost.
    """
    families: list[Family] = [
        ("nanny_up", "gauge", "1 while the nanny answers.", [({}, status is not None)]),
        ("link_server_connected", "gauge", "1 while messages flow to the server.", [({}, is_server_connected)]),
        ("link_orders_held", "gauge", "Orders that the nanny has not answered yet.", [({}, orders_held)]),
        ("link_log_lines_dropped_total", "counter", "Log lines lost by link.", [({}, log_lines_dropped)]),
    ]  # fmt: skip
    families += [
        (f"link_{name}", "counter", text, [({}, getattr(counters, name))]) for name, text in _OWN_NUMBERS
    ]
    families.append(
        ("link_disconnects_total", "counter", "Connections to the server that ended or failed, by cause.",
         _labelled("cause", counters.disconnects))
    )  # fmt: skip
    families.append(
        ("link_nanny_disconnects_total", "counter", "Connections to the nanny that ended or failed, by cause.",
         _labelled("cause", counters.nanny_disconnects))
    )  # fmt: skip
    if status is not None:
        families += _of_status(status)
    return "".join(_lines(families))


def _of_status(status: Mapping[str, Any]) -> Iterator[Family]:
    yield (
        "phase",
        "gauge",
        "1 for the phase that the nanny is in.",
        _states("phase", PHASES, status.get("phase")),
    )
    stage = _part(status, "worker").get("stage")
    yield "worker_stage", "gauge", "1 for the stage that the worker is in.", _states("stage", STAGES, stage)
    is_up = _part(status, "desired").get("value") == "up"
    yield "desired_up", "gauge", "1 when a worker is wanted.", [({}, is_up)]
    yield "draining", "gauge", "1 when no new work is wanted.", [({}, status.get("draining") is True)]
    yield "held", "gauge", "1 while involuntary kills are held.", [({}, bool(status.get("hold")))]
    degraded = status.get("journal_degraded") is True
    yield "journal_degraded", "gauge", "1 while the journal does not answer.", [({}, degraded)]
    number = str(status.get("incarnation") or "").rpartition("/")[2]
    if number.isascii() and number.isdigit():
        yield "incarnation_number", "gauge", "Number of the worker's life.", [({}, int(number))]
    pending, fenced = (_items(status, key) for key in ("pending_commands", "fenced"))
    yield "commands_pending", "gauge", "Commands whose outcome is open.", [({}, len(pending))]
    yield "fenced", "gauge", "Lives of the worker that are fenced and may still exist.", [({}, len(fenced))]
    conditions = [one for one in _items(status, "conditions") if isinstance(one, dict)]
    yield "condition", "gauge", "1 for each condition that holds.", [
        ({"type": str(one.get("type"))}, one.get("status") == "True") for one in conditions
    ]  # fmt: skip
    yield "build", "gauge", "1, with the nanny's version.", [
        ({"version": str(_part(status, "nanny").get("version"))}, 1)
    ]  # fmt: skip
    for part, key, name, kind, text in _NANNY_NUMBERS:
        value = _part(status, part).get(key)
        if isinstance(value, int | float):
            yield name, kind, text, [({}, value)]
    standby = _part(status, "standby")
    if standby:
        yield "standby_parked", "gauge", "1 while a standby worker is parked.", [
            ({}, standby.get("stage") == "parked")
        ]  # fmt: skip
        yield "standby_drops_total", "counter", "Standby workers that were dropped, by reason.", _labelled(
            "reason", _part(standby, "dropped_total")
        )  # fmt: skip
    counters = _part(status, "counters")
    for key, name, label, text in _NANNY_MAPPINGS:
        yield name, "counter", text, _labelled(label, _part(counters, key))


def _states(label: str, words: tuple[str, ...], word: object) -> Samples:
    known = words if word in words else (*words, str(word))
    return [({label: one}, one == word) for one in known]


def _labelled(label: str, values: Mapping[str, Any]) -> Samples:
    return [
        ({label: str(word)}, value)
        for word, value in sorted(values.items())[:_FAMILY_LIMIT]
        if isinstance(value, int | float)
    ]


def _part(plain: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = plain.get(key)
    return value if isinstance(value, dict) else {}


def _items(plain: Mapping[str, Any], key: str) -> list[Any]:
    value = plain.get(key)
    return value[:_FAMILY_LIMIT] if isinstance(value, list) else []


def _lines(families: Iterable[Family]) -> Iterator[str]:
    for name, kind, text, samples in families:
        head = f"# HELP nodenanny_{name} {text}\n# TYPE nodenanny_{name} {kind}\n"
        for labels, value in samples:
            yield f"{head}nodenanny_{name}{_label_text(labels)} {_number(value)}\n"
            head = ""


def _label_text(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if isinstance(value, bool) else repr(value)
