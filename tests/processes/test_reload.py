"""Reload: what can be applied is, the rest is named; nothing of it ever touches the worker."""

import os
import signal

import pytest

from tests.support.processes import wait_until
from tests.support.real_nanny import BEATS, RealNanny


def start(node: RealNanny, text: str) -> None:
    (node.directory / "nodenanny.toml").write_text(text)
    node.start(BEATS, f"--config={node.directory}/nodenanny.toml")


def change(node: RealNanny, text: str) -> None:
    (node.directory / "nodenanny.toml").write_text(text)


def test_by_signal_and_by_order_what_can_be_applied_is_and_the_rest_is_named(node: RealNanny) -> None:
    start(node, "memory_limit_bytes = 1000000000\n")
    before = node.wait_for_phase("running")
    change(node, "start_timeout_s = 7.0\njournal_timeout_s = 3.0\n")
    answer = node.order("reload")
    assert answer["outcome"] == "done"
    assert "start_timeout_s" in answer["detail"].partition("needs a restart")[0]
    assert "journal_timeout_s" in answer["detail"].partition("needs a restart")[2]
    [stale] = [one for one in node.status()["conditions"] if one["type"] == "SettingsStale"]
    assert "journal_timeout_s" in stale["message"]
    change(node, "start_timeout_s = 8.0\n")
    node.send(signal.SIGHUP)
    node.wait_for(lambda status: status["conditions"] == [], "the condition to go")
    after = node.wait_for_phase("running")
    assert (after["incarnation"], after["last_restart"]) == (before["incarnation"], None)


@pytest.mark.slow
def test_an_applied_setting_is_in_force(node: RealNanny) -> None:
    start(node, "")
    before = node.wait_for_phase("running")
    change(node, "memory_limit_bytes = 1048576\n")
    assert node.order("reload")["outcome"] == "done"
    after = node.wait_for_next(before)
    assert after["last_restart"]["reason"] == "memory-limit"


@pytest.mark.parametrize("text", ["stall_warn_s = [", "no_such_setting = 1", "stall_warn_s = 60.0"])
def test_settings_that_are_refused_change_nothing_and_are_explained(node: RealNanny, text: str) -> None:
    start(node, "")
    before = node.wait_for_phase("running")
    change(node, text)
    answer = node.order("reload")
    assert answer["outcome"] == "failed"
    assert text.partition(" ")[0] in answer["detail"] or "nodenanny.toml" in answer["detail"]
    assert "SettingsStale" in node.conditions()
    assert node.status()["incarnation"] == before["incarnation"]


def test_reloads_asked_for_at_once_are_all_answered_by_what_is_there_afterwards(node: RealNanny) -> None:
    start(node, "")
    node.wait_for_phase("running")
    from nanny.common.identifiers import uuid7

    ids = [uuid7(1_700_000_000_000 + n, bytes([n] * 10)) for n in range(5)]
    with node.connect() as client:
        client.ask("subscribe")
        for n, command_id in enumerate(ids):
            change(node, f"start_timeout_s = {10 + n}.0\n")
            client.ask("command", command_id=command_id, kind="reload", reason="test", actor="tester")
        outcomes: dict[str, str] = {}
        while len(outcomes) < 5:
            line = client.line()
            if line.get("push") == "outcome":
                outcomes[line["command_id"]] = line["outcome"]
    assert outcomes == dict.fromkeys(ids, "done")
    assert "applied: nothing" in node.order("reload")["detail"]


def test_a_reload_from_a_dead_file_system_is_given_up(node: RealNanny) -> None:
    """A FIFO that nobody writes stands for it: opening it waits for ever."""
    start(node, "")
    node.wait_for_phase("running")
    path = node.directory / "nodenanny.toml"
    path.unlink()
    os.mkfifo(path)
    answer = node.order("reload")
    assert answer["outcome"] == "failed"
    assert "dead" in answer["detail"] or "regular" in answer["detail"]
    wait_until(lambda: not node.workers("nanny.cli resolve"), 10, "the helper to be ended")
    node.assert_unharmed()
