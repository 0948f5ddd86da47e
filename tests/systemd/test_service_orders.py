"""systemctl's own orders and the nanny's: stop, start, restart, reload, reexec, kill; and what is left afterwards."""

from __future__ import annotations

from tests.systemd.installation import PREFIX
from tests.systemd.node import QUICK, Node, assert_always_answered, says_what_the_nanny_says, wanted_of

DEAF = {
    "command": ["/usr/bin/python3", "/src/inside/crier.py"],
    "heartbeat": "ready",
    "stop_grace_s": 30.0,
}
"""A worker that will not end on SIGTERM."""


def group_of(node: Node) -> str:
    return f"/sys/fs/cgroup{node.unit()['ControlGroup']}"


def assert_nothing_left(node: Node, group: str, pids: list[int]) -> None:
    assert node.box.ask("test", "-e", group).status == 1, node.box.ask(
        "sh", "-c", f"find {group} -name cgroup.procs | xargs cat"
    ).out
    assert [pid for pid in pids if node.is_alive(pid)] == []


def pids_below(node: Node, group: str) -> list[int]:
    return [int(pid) for pid in node.box.sh(f"find {group} -name cgroup.procs | xargs cat").split()]


def test_systemctl_stop_sweeps_everything_up_and_changes_nothing_about_what_is_wanted(node: Node) -> None:
    before = node.wait_until_ready()["nanny"]
    group = group_of(node)
    pids = pids_below(node, group)

    node.box.run("systemctl", "stop", "nodenanny")

    assert node.unit()["Result"] == "success"
    assert_nothing_left(node, group, pids)
    node.box.run("systemctl", "start", "nodenanny")
    after = node.wait_until_ready(after=before["incarnation"])["nanny"]
    assert wanted_of(after) == wanted_of(before)


def test_a_worker_that_will_not_end_is_swept_up_by_the_stop(node: Node) -> None:
    """The nanny itself runs into systemd's limit: ExecStopPost does the rest."""
    node.configure(QUICK | {"nanny": QUICK["nanny"] | DEAF})
    with node.drop_in("TimeoutStopSec=3s"):
        node.box.run("systemctl", "restart", "nodenanny")
        node.wait_until_running()
        group = group_of(node)
        pids = pids_below(node, group)

        node.box.run("systemctl", "stop", "nodenanny")

        assert_nothing_left(node, group, pids)


def test_systemctl_restart_ends_the_worker_in_order_and_starts_the_next(node: Node) -> None:
    before = node.wait_until_ready()

    node.box.run("systemctl", "restart", "nodenanny")

    after = node.wait_until_ready(after=before["nanny"]["incarnation"])
    assert after["nanny"]["nanny"]["pid"] != before["nanny"]["nanny"]["pid"]
    assert wanted_of(after["nanny"]) == wanted_of(before["nanny"])
    assert not node.is_alive(before["nanny"]["worker"]["pid"])
    assert after["units"]["nodenanny"]["Result"] == "success"


def test_a_restart_of_the_unit_moves_the_listening_socket_when_the_settings_did(node: Node) -> None:
    """Systemd keeps the old one over a restart."""
    node.wait_until_ready()
    node.configure(QUICK | {"nanny": QUICK["nanny"] | {"port": 7090}})

    node.box.run("systemctl", "restart", "nodenanny")

    told = node.wait_until_ready()
    assert told["nanny"]["healthz"] == "127.0.0.1:7090"
    assert told["units"]["nodenanny"]["NFileDescriptorStore"] == "1"


def test_systemctl_reload_applies_what_can_be_and_leaves_the_worker_alone(node: Node) -> None:
    before = node.wait_until_ready()
    node.configure(QUICK | {"nanny": QUICK["nanny"] | {"stall_timeout_s": 20.0}})

    node.box.run("systemctl", "reload", "nodenanny")

    after = node.wait_until_ready()
    assert after["nanny"]["worker"]["pid"] == before["nanny"]["worker"]["pid"]
    assert after["units"]["nodenanny"]["MainPID"] == before["units"]["nodenanny"]["MainPID"]
    assert after["nanny"]["conditions"] == []


def test_systemctl_reload_of_wrong_settings_fails_and_says_why(node: Node) -> None:
    before = node.wait_until_ready()
    node.configure(QUICK | {"nanny": QUICK["nanny"] | {"stall_timeout_s": -1}})

    answer = node.box.ask("systemctl", "reload", "nodenanny")

    assert answer.status != 0
    assert "stall_timeout_s" in node.box.journal("nodenanny", "-n", "20", "-o", "cat")
    after = node.wait_until_running()
    assert after["nanny"]["worker"]["pid"] == before["nanny"]["worker"]["pid"]
    assert [one["type"] for one in after["nanny"]["conditions"]] == ["SettingsStale"]


def test_reexec_upgrades_in_place_and_systemd_goes_on_watching(node: Node) -> None:
    with node.drop_in("WatchdogSec=5s"):
        node.box.run("systemctl", "restart", "nodenanny")
        before = node.wait_until_ready()
        with node.probed() as answers:
            node.box.run(f"{PREFIX}/bin/nannyctl", "reexec")
            reexecuted = node.wait_for(
                lambda told: told["nanny"] and told["nanny"]["nanny"]["reexecuted"] == 1, "the new image"
            )
            assert reexecuted["nanny"]["worker"]["pid"] == before["nanny"]["worker"]["pid"]
            # Petted by the new image: it lives for more than two of systemd's limits.
            node.box.wait_until(
                lambda: node.status()["nanny"]["age_s"] > 12, "twelve seconds of the new image"
            )

        after = node.wait_until_ready()
        for key in ("MainPID", "NRestarts", "NFileDescriptorStore"):
            assert after["units"]["nodenanny"][key] == before["units"]["nodenanny"][key]
        assert_always_answered(answers)
        # And watched: a hang of the new image is noticed.
        node.signal("STOP", after["units"]["nodenanny"]["MainPID"])
        last = node.wait_for(
            lambda told: told["nanny"] and told["nanny"]["nanny"]["pid"] != after["nanny"]["nanny"]["pid"],
            "another nanny",
        )
        assert last["nanny"]["worker"]["pid"] == before["nanny"]["worker"]["pid"]


def test_everything_killed_at_once_comes_back_as_one_worker(node: Node) -> None:
    before = node.wait_until_ready()
    group = group_of(node)
    pids = pids_below(node, group)

    node.box.run("systemctl", "kill", "--kill-whom=all", "--signal=KILL", "nodenanny")

    after = node.wait_until_ready(after=before["nanny"]["incarnation"])
    assert [pid for pid in pids if node.is_alive(pid)] == []
    assert wanted_of(after["nanny"]) == wanted_of(before["nanny"])
    assert after["nanny"]["conditions"] == []
    cgroups = node.box.run("find", group, "-name", "worker-*").split()
    number = after["nanny"]["incarnation"].rpartition("/")[2]
    assert [path.rpartition("/")[2] for path in cgroups] == [f"worker-{number}"]


def test_an_ordered_stop_is_no_stop_of_the_unit(node: Node) -> None:
    node.nannyctl("stop", "--reason", "test")

    node.wait_until_in_phase("down")

    told = node.wait_for(says_what_the_nanny_says, "the nanny's words in systemctl status")
    assert told["units"]["nodenanny"]["ActiveState"] == "active"
    assert told["units"]["nodenanny"]["StatusText"].startswith("down")
    node.box.run("systemctl", "restart", "nodenanny")
    assert node.wait_for(lambda told: told["nanny"], "an answer")["nanny"]["desired"]["value"] == "down"
