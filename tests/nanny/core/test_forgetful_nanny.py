"""A nanny that has begun without a journal, after a boot: what it was ordered before, it can't know."""

import pytest

from nanny.core.actions import DeferCommand, Outcome, ReportAccepted, ReportOutcome
from nanny.core.config import PolicyConfig
from nanny.core.draft import Step
from nanny.core.events import Command, CommandKind, CommandReceived, Source
from nanny.core.policy import step
from nanny.core.state import NannyState
from nanny.protocol.incarnation import Incarnation

CONFIG = PolicyConfig(node_id="n")
LIFE = Incarnation("epoch", 7)
NOW = 100.0


def ordered(
    kind: CommandKind,
    *,
    target: Incarnation | None = None,
    time_to_live_s: float = 60.0,
    source: Source = Source.SERVER,
    is_forgetful: bool = True,
) -> Step:
    state = NannyState(epoch="epoch", spare_epoch="spare", incarnation=LIFE, is_forgetful=is_forgetful)
    command = Command("an id", kind, time_to_live_s, "because", "server", source, target)
    return step(state, CommandReceived(command), NOW, CONFIG)


@pytest.mark.parametrize("kind", CommandKind)
@pytest.mark.parametrize("time_to_live_s", [60.0, -1.0])
def test_what_an_earlier_nanny_may_have_done_is_put_off(kind: CommandKind, time_to_live_s: float) -> None:
    decided = ordered(kind, time_to_live_s=time_to_live_s)
    assert (decided.actions, decided.records) == ((DeferCommand("an id"),), ())


def test_a_restart_of_a_life_of_another_epoch_is_put_off() -> None:
    decided = ordered(CommandKind.RESTART, target=Incarnation("earlier", 3))
    assert (decided.actions, decided.records) == ((DeferCommand("an id"),), ())


def test_a_restart_of_a_life_of_this_boot_is_new() -> None:
    decided = ordered(CommandKind.RESTART, target=LIFE)
    assert decided.actions[0] == ReportAccepted("an id")


def test_a_local_operator_gives_each_order_once() -> None:
    decided = ordered(CommandKind.CLEAR, source=Source.LOCAL)
    assert DeferCommand("an id") not in decided.actions


def test_a_nanny_that_has_read_its_journal_says_what_is_too_late() -> None:
    decided = ordered(CommandKind.CLEAR, time_to_live_s=-1.0, is_forgetful=False)
    (report,) = decided.actions
    assert isinstance(report, ReportOutcome)
    assert report.outcome is Outcome.EXPIRED
