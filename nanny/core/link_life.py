"""The life of link: a child like the worker, without ladder, evidence or intent.

Link holds no state, so a link that is silent, stuck or gone is replaced, whatever it last said.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nanny.core import child, worker_life
from nanny.core.actions import Signal, SignalLink, SpawnLink
from nanny.core.child import Child, Stage
from nanny.core.state import ConditionType

if TYPE_CHECKING:
    from nanny.core.draft import Draft
    from nanny.core.events import LinkBeat, LinkExited, LinkSpawned, LinkSpawnFailed


def spawn(draft: Draft) -> None:
    """Ask for a link process, if link is ours to start."""
    timing = draft.config.link
    if timing is None or draft.state.is_shutting_down:
        return
    number = draft.state.link_number + 1
    draft.change(
        link=child.spawning(draft.state.link, draft.now, timing), link_number=number, link_signal=None
    )
    draft.act(SpawnLink(number))


def spawned(draft: Draft, event: LinkSpawned) -> None:
    """Link is born."""
    timing = draft.config.link
    if timing is None or draft.state.link.stage is not Stage.SPAWNING:
        return
    draft.change(link=child.born(draft.state.link, event.pid, draft.now, timing))
    worker_life.finish_shutdown(draft)


def beat(draft: Draft, event: LinkBeat) -> None:
    """Link is alive; READY=1 makes it ready."""
    timing, link = draft.config.link, draft.state.link
    if timing is None or draft.state.link_signal is not None:
        return
    if link.stage is Stage.STARTING and event.ready:
        link = child.ready(link, draft.now, timing)
    draft.change(link=child.beat(link, draft.now, timing))


def spawn_failed(draft: Draft, event: LinkSpawnFailed) -> None:
    """No link could be made: tried again after the backoff."""
    _ended(draft, event.message)


def exited(draft: Draft, event: LinkExited) -> None:
    """Link is gone: the next one follows."""
    _ended(draft, event.status)


def _ended(draft: Draft, why: str) -> None:
    timing = draft.config.link
    if timing is None or draft.state.is_shutting_down:
        draft.change(link=Child(since=draft.now))
        worker_life.finish_shutdown(draft)
        return
    seed = f"{draft.config.node_id}/link/{draft.state.link_number}"
    after = child.failed(draft.state.link, draft.now, timing, seed)
    draft.change(link=after, link_signal=None)
    if child.is_crash_looping(after, timing):
        message = f"{after.failures} failures in a row, the last one: {why}"
        draft.set_condition(ConditionType.LINK_FAILING, "TooManyFailures", message)
    if after.deadline is None or after.deadline <= draft.now:
        spawn(draft)


def overdue(draft: Draft) -> None:
    """Link's deadline passed: not born, not ready, silent, not dead, or due for its next try."""
    link, timing = draft.state.link, draft.config.link or draft.config.worker
    if link.stage is Stage.BACKOFF:
        spawn(draft)
    elif link.stage is Stage.SPAWNING:
        _ended(draft, "it was not born in time")
    elif draft.state.link_signal is Signal.KILL:
        _ended(draft, "it does not die of SIGKILL")
    else:
        deadline = draft.now + timing.unkillable_timeout_s
        draft.change(link=replace(link, deadline=deadline), link_signal=Signal.KILL)
        draft.act(SignalLink(draft.state.link_number, Signal.KILL))


def stable(draft: Draft) -> None:
    """Link has been ready for long enough: its failures are forgotten."""
    draft.change(link=replace(draft.state.link, failures=0))
    draft.clear_condition(ConditionType.LINK_FAILING, "Recovered")
