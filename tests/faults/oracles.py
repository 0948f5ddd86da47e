"""What must be true after every fault, checked on a real node: ``with judged(node, expects=...) as case: ...``.

Entering takes stock of the node, leaving waits until it has settled and then checks all of: one living worker and no
process of an earlier one; the bystander untouched; one outcome for each command; growing incarnations; nothing
leaked; evidence there and bounded; the nanny's watchdog never missed; detection and recovery inside the promise; the
true cause told by explain and history. All that is wrong is said at once. tests/faults/test_oracles.py plants each.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nanny.evidence.listing import list_bundles
from tests.faults.journal_story import Story, read_story
from tests.faults.node_stock import NodeStock, incarnations_alive, settled_stock, stat_fields, take_stock
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.fault_node import FaultNode

SLACK_S = 8.0
"""Added to every promise: the machine has two cores and other things to do."""
SETTLE_S = 30.0
LEFTOVERS_S = 10.0
BUNDLE_LIMIT_BYTES = 8 << 20
EVIDENCE_KEEP = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the case promises; what is left at its default is not asked for.

    Attributes:
        restarts: how many incarnations start in the case; None: any number.
        phase: in which the node ends.
        detect_within_s: from the fault to the nanny's first record about it (or to `condition`).
        recover_within_s: from the fault to the last worker's READY=1.
        cause: each of these texts occurs in what history tells of the case.
        explains: each occurs in what explain says at the end; None takes `cause`, () asks for nothing.
        condition: the condition that the fault has to raise; it is what detection is measured to.
        outcomes: of the commands that finished in the case, sorted; None: any.
        evidence: a finished bundle of the worker that was ended is there.
        residue: processes of earlier incarnations may live on (uninterruptible, or adopted grandchildren).
        journal: False where the disk is the fault, and what it holds is judged by the case itself.
    """

    restarts: int | None = 1
    phase: str = "running"
    detect_within_s: float | None = None
    recover_within_s: float | None = None
    cause: tuple[str, ...] = ()
    explains: tuple[str, ...] | None = None
    condition: str | None = None
    outcomes: tuple[str, ...] | None = None
    evidence: bool = False
    residue: bool = False
    journal: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one judged block, for the table."""

    detect_s: float | None
    recover_s: float | None
    cause: str
    evidence: str


class OracleFailed(AssertionError):  # noqa: N818  # it says what happened
    """Something that must be true after a fault is not; `wrong` has all of it."""

    def __init__(self, wrong: list[str], story: str, log: str) -> None:
        super().__init__("\n".join([*wrong, "--- history", story, "--- log", log[-3000:]]))
        self.wrong = wrong


@dataclass
class JudgedCase:
    """The block being judged.

    Attributes:
        before: the nanny's status when the block was entered.
        after: its status when the node had settled.
        began_at: the fault's instant; ``begins()`` moves it to now.
    """

    node: FaultNode
    expects: Expectation
    before: dict[str, Any]
    stock: NodeStock
    last_n: int
    began_at: float
    after: dict[str, Any] = field(default_factory=dict)
    detected_at: float | None = None
    recovered_at: float | None = None
    excused: list[tuple[float, float]] = field(default_factory=list)

    def begins(self) -> None:
        """The fault happens now; without this, it does when the block is entered."""
        self.began_at = time.monotonic()

    def detected(self) -> None:
        """Detection was seen now, where no journal could tell."""
        self.detected_at = time.monotonic()

    def recovered(self) -> None:
        """Recovery was seen now, where no worker was replaced or no journal could tell."""
        self.recovered_at = time.monotonic()

    @contextmanager
    def nanny_cannot_run(self) -> Iterator[None]:
        """The test holds the nanny itself: what it does not pet in this block is the test's doing."""
        since = time.monotonic()
        try:
            yield
        finally:
            self.excused.append((since, time.monotonic()))


@contextmanager
def judged(node: FaultNode, *, expects: Expectation) -> Iterator[JudgedCase]:
    """Judge what happens in the block; the node runs when it is entered.

    Raises:
        OracleFailed: with all that is wrong.
    """
    before = node.status()
    story = read_story(node) if expects.journal else Story((), 0)
    last_n = story.whole[-1]["n"] if story.whole else 0
    case = JudgedCase(node, expects, before, settled_stock(node), last_n, time.monotonic())
    yield case
    case.after = _settled(case)
    story = read_story(node, last_n) if expects.journal else Story((), 0)
    detect_s, recover_s = _measured(case, story)
    wrong = [
        *lives_of(case),
        *bystander_of(case),
        *commands_of(case, story),
        *incarnations_of(case, story),
        *leaks_of(case),
        *evidence_of(case, story),
        *watchdog_of(case),
        *promises_of(case, detect_s, recover_s),
        *causes_of(case, story),
    ]
    if wrong:
        raise OracleFailed(wrong, story.told(), node.log())
    node.verdicts.append(Verdict(detect_s, recover_s, _cause(case, story), _evidence_word(case, story)))


def _settled(case: JudgedCase) -> dict[str, Any]:
    """Wait for the expected end and give the status."""
    expects, node = case.expects, case.node
    wanted = None if expects.restarts is None else expects.restarts > 0

    def holds(status: dict[str, Any]) -> bool:
        is_other = status["incarnation"] != case.before["incarnation"]
        return status["phase"] == expects.phase and (wanted is None or is_other == wanted)

    if expects.journal and expects.restarts:
        # Each life that follows is waited for; one too many is seen afterwards.
        def lives() -> int:
            story = read_story(node, case.last_n)
            return len(
                story.of_type("incarnation-ready" if expects.phase == "running" else "incarnation-started")
            )

        with suppress(AssertionError):
            wait_until(lambda: lives() >= (expects.restarts or 0), SETTLE_S, "the lives that were promised")
    node.wait_for(holds, f"phase {expects.phase} after the fault")
    if expects.journal:
        with suppress(AssertionError):
            wait_until(lambda: not read_story(node).wrong_commands(), 5.0, "every outcome to be on record")
    return node.status()


def _measured(case: JudgedCase, story: Story) -> tuple[float | None, float | None]:
    """Seconds from the fault to its detection and to recovery, as far as they are known."""
    detected_at = case.detected_at
    recovered_at = case.recovered_at
    if detected_at is None:
        detected_at = story.detected_at(case.expects.condition)
    if recovered_at is None and case.expects.restarts != 0:
        recovered_at = story.recovered_at()
    return (
        None if detected_at is None else max(detected_at - case.began_at, 0.0),
        None if recovered_at is None else max(recovered_at - case.began_at, 0.0),
    )


# The oracles: each gives what is wrong, in words


def lives_of(case: JudgedCase) -> list[str]:
    """Exactly one worker lives, it is the one that the nanny means, and none of before."""
    status, node = case.after, case.node
    alive = incarnations_alive(node)
    main = int(status["worker"]["pid"])
    wrong = []
    if case.expects.phase in {"running", "degraded", "starting"}:
        if main not in alive.get(str(status["incarnation"]), []):
            wrong.append(f"the worker of {status['incarnation']}, pid {main}, does not live; alive: {alive}")
        leaders = _leaders(alive.get(str(status["incarnation"]), []))
        if len(leaders) > 1:
            wrong.append(f"{len(leaders)} workers of one incarnation live: {leaders}")
    elif main == 0 and alive and not case.expects.residue:
        wrong.append(f"phase {status['phase']}, but processes of a worker live: {alive}")
    others = {name: pids for name, pids in alive.items() if name != status["incarnation"]}
    if others and not case.expects.residue:
        wrong.append(f"processes of earlier workers live: {others}")
    return wrong


def _leaders(pids: list[int]) -> list[int]:
    """Those that lead a session of their own: a worker does, its helpers need not."""
    found = []
    for pid in pids:
        fields = stat_fields(pid)
        if fields is not None and int(fields[3]) == pid and int(fields[1]) not in pids:
            found.append(pid)
    return found


def bystander_of(case: JudgedCase) -> list[str]:
    """Processes that are not the worker's are untouched."""
    harm = case.node.bystander.harm()
    return [] if harm is None else [harm]


def commands_of(case: JudgedCase, story: Story) -> list[str]:
    """Each command has one outcome, and the expected one."""
    wrong = story.wrong_commands()
    found = tuple(sorted(str(one["outcome"]) for one in story.of_type("command-finished")))
    if case.expects.outcomes is not None and found != tuple(sorted(case.expects.outcomes)):
        wrong.append(f"outcomes {found}, expected {case.expects.outcomes}")
    if case.after["pending_commands"]:
        wrong.append(f"commands are still open: {case.after['pending_commands']}")
    return wrong


def incarnations_of(case: JudgedCase, story: Story) -> list[str]:
    """Incarnations grow, and there are as many new ones as promised."""
    wrong = story.wrong_incarnations()
    count = len(story.of_type("incarnation-started"))
    if case.expects.journal and case.expects.restarts is not None and count != case.expects.restarts:
        wrong.append(f"{count} worker(s) were started, expected {case.expects.restarts}")
    if case.expects.restarts == 0 and case.before["worker"]["pid"] != case.after["worker"]["pid"]:
        wrong.append(
            f"the worker was replaced: {case.before['worker']['pid']}, then {case.after['worker']['pid']}"
        )
    return wrong


def leaks_of(case: JudgedCase) -> list[str]:
    """No zombie, descriptor, thread, socket, cgroup or file of the nanny's is left over."""

    def grown() -> list[str]:
        found = take_stock(case.node).grown_since(case.stock)
        return [one for one in found if not (case.expects.residue and "cgroups" in one)]

    with suppress(AssertionError):
        wait_until(lambda: not grown(), LEFTOVERS_S, "nothing to be left over")
    return grown()


def evidence_of(case: JudgedCase, story: Story) -> list[str]:
    """A bundle of each worker that hung, none too large, not too many."""
    wrong = []
    bundles = (
        list_bundles(str(case.node.state_dir), str(case.node.runtime_dir)) if case.expects.journal else []
    )
    if case.expects.evidence:
        for ended in story.of_type("incarnation-ended"):
            own = [one for one in bundles if one.incarnation == ended["incarnation"] and one.is_finished]
            if not own and ended["reason"] != "exited":
                wrong.append(f"no finished evidence of {ended['incarnation']} ({ended['reason']})")
        if not bundles:
            wrong.append("no evidence at all")
    wrong += [
        f"bundle {one.name} has {one.size_bytes} bytes"
        for one in bundles
        if one.size_bytes > BUNDLE_LIMIT_BYTES
    ]
    if len(bundles) > EVIDENCE_KEEP:
        wrong.append(f"{len(bundles)} bundles are kept")
    return wrong


def watchdog_of(case: JudgedCase) -> list[str]:
    """The nanny never missed its own watchdog while it lived and was allowed to run."""
    node = case.node
    # An earlier nanny was ended by the case itself; whatever it did not say then is no fault of its own.
    missed = node.watch.missed(node.pid, case.began_at, time.monotonic())
    return [] if case.excused else missed


def promises_of(case: JudgedCase, detect_s: float | None, recover_s: float | None) -> list[str]:
    """Detection and recovery came inside the promise."""
    wrong = []
    for what, took_s, promised_s in (
        ("detected", detect_s, case.expects.detect_within_s),
        ("recovered", recover_s, case.expects.recover_within_s),
    ):
        if promised_s is not None and took_s is None:
            wrong.append(f"never {what}")
        elif promised_s is not None and took_s is not None and took_s > promised_s + SLACK_S:
            wrong.append(
                f"{what} after {took_s:.1f} s, promised in {promised_s:g} s (and {SLACK_S:g} s of slack)"
            )
    return wrong


def causes_of(case: JudgedCase, story: Story) -> list[str]:
    """History and explain name what it was."""
    expects, status = case.expects, case.after
    explained = " | ".join(status["because"])
    told = story.told() if expects.journal else explained
    wanted = expects.cause if expects.explains is None else expects.explains
    wrong = [f"history does not tell of {one!r}" for one in expects.cause if one not in told]
    wrong += [f"explain does not name {one!r}: {explained}" for one in wanted if one not in explained]
    if expects.condition is not None and expects.journal:
        raised = {one["condition"] for one in story.of_type("condition-changed") if one["status"]}
        if expects.condition not in raised:
            wrong.append(f"condition {expects.condition} was never raised, only {sorted(raised)}")
    return wrong


def _cause(case: JudgedCase, story: Story) -> str:
    for one in reversed(story.of_case):
        if one["type"] == "stop-decided":
            return f"{one['reason']}: {one['detail']}"
        if one["type"] == "incarnation-ended" and one["reason"] == "exited":
            return f"exited: {one['status']}"
        if (
            one["type"] == "condition-changed"
            and one["status"]
            and one["condition"] == case.expects.condition
        ):
            return f"{one['condition']}: {one['message']}"
    return case.expects.cause[0] if case.expects.cause else ""


def _evidence_word(case: JudgedCase, story: Story) -> str:
    saved = [one for one in story.of_type("evidence-saved") if one["bundle"]]
    return f"{len(saved)} bundle(s)" if saved else "-"
