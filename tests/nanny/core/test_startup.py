"""What a start makes of the journal that no scenario shows."""

from nanny.core import startup
from nanny.core.actions import Outcome
from nanny.core.config import PolicyConfig
from nanny.core.events import CommandKind
from nanny.core.records import CommandFinished, IncarnationEnded, IncarnationStarted, Record
from nanny.core.state import NannyState
from nanny.protocol.incarnation import Incarnation

_LIFE = Incarnation("epoch", 7)
_FAILED = IncarnationEnded(_LIFE, "exited", "", 3)
_CLEARED = CommandFinished("one", CommandKind.CLEAR, Outcome.DONE, "", _LIFE, local=True)


def recovered(records: list[Record]) -> NannyState:
    config = PolicyConfig(node_id="n")
    return startup.recover([(one, 1.0) for one in records], (), 5.0, ("a", "b"), config).state


def test_failures_that_were_cleared_stay_forgotten() -> None:
    assert recovered([_FAILED]).worker.failures == 3
    assert recovered([_FAILED, _CLEARED]).worker.failures == 0


def test_failures_after_the_clearance_count_also_in_a_compacted_journal() -> None:
    state = recovered([IncarnationStarted(_LIFE, 0, 0), _CLEARED, _FAILED])
    assert state.worker.failures == 3
    assert recovered(startup.compact(state, ())).worker.failures == 3
