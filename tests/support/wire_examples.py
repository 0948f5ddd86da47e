"""One or two examples of every message: `full` has every field, `bare` only what must be there.

The golden frames were written from these. Never change an example whose frame is committed: add another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nanny.protocol.incarnation import Incarnation
from nanny.protocol.messages import (
    Ack,
    Close,
    CommandAccepted,
    CommandKind,
    CommandOrder,
    CommandOutcome,
    Condition,
    ConditionStatus,
    Desired,
    EvidenceSummary,
    Hello,
    LastRestart,
    NannyReport,
    Outcome,
    OutcomeAcknowledged,
    Ping,
    Pong,
    Refused,
    Registered,
    Registration,
    Role,
    SpecOffer,
    Welcome,
    WorkerReport,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nanny.protocol.messages import Message

COMMAND_ID: Final = "0190e0a0-5c1e-7d52-8f3b-6f2d4a9b1c07"
SEVEN: Final = Incarnation("0190e09f-0000-7000-8000-00000000000a", 7)
EIGHT: Final = Incarnation("0190e09f-0000-7000-8000-00000000000a", 8)

HELLO: Final = Hello(
    role=Role.LINK,
    protocol_versions=(1,),
    node_id="node-0190e09e",
    node_name="gpu-node-17",
    machine_id="3f1c2b9e5d7a4c0f8e6b1a2d3c4e5f60",
    boot_id="0f4a2c1e-8b7d-4e5f-9a3c-6d1e2f3a4b5c",
    software_version="0.1.0",
    incarnation=None,
)

EXAMPLES: Final[Mapping[str, Message]] = {
    "hello.full": Hello(
        role=Role.WORKER,
        protocol_versions=(1, 2),
        node_id="node-0190e09e",
        node_name="gpu-node-17 (Zürich)",
        machine_id="3f1c2b9e5d7a4c0f8e6b1a2d3c4e5f60",
        boot_id="0f4a2c1e-8b7d-4e5f-9a3c-6d1e2f3a4b5c",
        software_version="0.1.0",
        incarnation=SEVEN,
        session_id="session-4",
        received_up_to=17,
    ),
    "hello.bare": HELLO,
    "welcome.full": Welcome(
        1, "session-4", resumed=True, received_up_to=12, keepalive_interval_s=10.0, report_interval_s=10.0
    ),
    "refused.full": Refused("identity-conflict", "node-0190e09e is connected from another machine", 60.0),
    "refused.bare": Refused("not-enrolled", "unknown node"),
    "ack.full": Ack(9007199254740991),
    "ping.full": Ping(1),
    "pong.full": Pong(1),
    "close.full": Close("shutting-down", "the server is being upgraded", 2.5),
    "close.bare": Close("replaced", "a newer connection of this node"),
    "nanny-report.full": NannyReport(
        phase="stopping",
        desired=Desired.UP,
        desired_by="uid 0 (nannyctl)",
        desired_reason="maintenance is over",
        desired_since_s=86400.5,
        incarnation=SEVEN,
        worker_state="beating",
        loop_lag_s=31.25,
        beat_age_s=0.5,
        conditions=(
            Condition(
                "GpuDriverUnresponsive", ConditionStatus.TRUE, "ProbeOverran", "no answer in 10 s", 12.0
            ),
            Condition("NodeStarved", ConditionStatus.FALSE, "Idle", "", 3600.0),
            Condition("ProbePathBlocked", ConditionStatus.UNKNOWN, "NeverTried", "", 0.0),
        ),
        restarts={"stalled": 2, "lost": 1, "ordered": 0},
        last_restart=LastRestart("stalled", 120.0, SEVEN, EIGHT),
        next_step="SIGABRT, then SIGKILL",
        next_step_in_s=0.75,
        hold_remaining_s=1800.0,
        draining=True,
        nanny_version="0.1.0",
        journal_degraded=True,
        uptime_s=7200.0,
    ),
    "nanny-report.bare": NannyReport(
        phase="down",
        desired=Desired.DOWN,
        desired_by="",
        desired_reason="",
        desired_since_s=0.0,
        incarnation=None,
        worker_state="none",
        loop_lag_s=None,
        beat_age_s=None,
        conditions=(),
        restarts={},
        last_restart=None,
        next_step="",
        next_step_in_s=None,
        hold_remaining_s=None,
        draining=False,
        nanny_version="0.1.0",
        journal_degraded=False,
        uptime_s=0.0,
    ),
    "nanny-report.clock": NannyReport(
        phase="running",
        desired=Desired.UP,
        desired_by="default",
        desired_reason="",
        desired_since_s=60.0,
        incarnation=SEVEN,
        worker_state="beating",
        loop_lag_s=0.001,
        beat_age_s=0.5,
        conditions=(),
        restarts={},
        last_restart=None,
        next_step="",
        next_step_in_s=None,
        hold_remaining_s=None,
        draining=False,
        nanny_version="0.2.0",
        journal_degraded=False,
        uptime_s=3600.0,
        wall_clock_s=0.0,
    ),
    "command-accepted.full": CommandAccepted(COMMAND_ID),
    "command-outcome.full": CommandOutcome(COMMAND_ID, Outcome.ALREADY_SATISFIED, "8 is running", EIGHT),
    "command-outcome.bare": CommandOutcome(COMMAND_ID, Outcome.REJECTED, "unknown kind"),
    "evidence-summary.full": EvidenceSummary(
        "2024-07-23-stalled-7", SEVEN, "stalled", 1048576, "pool.py:88 in acquire"
    ),
    "evidence-summary.bare": EvidenceSummary("2024-07-23-lost-7", SEVEN, "lost", 0),
    "evidence-summary.signed": EvidenceSummary(
        "20260501T120000.123456Z-7-stalled",
        SEVEN,
        "stalled",
        1048576,
        "pool:acquire:88",
        "pool:acquire < app.telemetry:read < asyncio.events:_run",
    ),
    "command-order.full": CommandOrder(
        COMMAND_ID,
        CommandKind.HOLD,
        300.0,
        "debugging a stall",
        "alice",
        SEVEN,
        {"for_s": 1800.0, "force": False, "tries": -1, "note": "über", "until": None},
    ),
    "command-order.bare": CommandOrder(COMMAND_ID, "a-kind-of-tomorrow", 0.0, "", ""),
    "outcome-acknowledged.full": OutcomeAcknowledged(COMMAND_ID),
    "registration.full": Registration(
        incarnation=SEVEN,
        addresses=("10.0.0.17", "fd00::17"),
        healthz_port=8750,
        capacity={"blocks": 8, "gpus": [{"uuid": "GPU-1", "memory_bytes": 85899345920}]},
        labels={"zone": "a"},
        software_version="0.1.0",
        started_age_s=1.5,
    ),
    "registration.bare": Registration(None, (), 0, {}, {}, "", 0.0),
    "worker-report.full": WorkerReport(
        seq=42,
        loop_lag_s=0.002,
        telemetry={"host": {"load": [0.5, 1, 2.25], "swap": None}, "gpus": [], "throttled": False},
        conditions=(Condition("KernelTainted", ConditionStatus.TRUE, "Proprietary", "", 1.0),),
        observed_generation=3,
    ),
    "worker-report.bare": WorkerReport(0, 0.0, {}, ()),
    "worker-report.clock": WorkerReport(43, 0.0, {}, (), wall_clock_s=1795269731.25),
    "registered.full": Registered("node-0190e09e"),
    "spec-offer.full": SpecOffer(4, {"workloads": [{"name": "train", "blocks": 2}], "volumes": {}}),
}
