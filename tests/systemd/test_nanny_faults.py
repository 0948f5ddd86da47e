"""The nanny is killed and stopped: systemd brings it back, and the worker lives on as if nothing had happened."""

from __future__ import annotations

from typing import Any

from tests.systemd.node import QUICK, Node, assert_always_answered, says_what_the_nanny_says


def other_nanny(before: dict[str, Any]) -> Any:
    """Whether another nanny than before answers, with a running worker."""

    def holds(told: dict[str, Any]) -> bool:
        return (
            told["nanny"] is not None
            and told["nanny"]["nanny"]["pid"] != before["nanny"]["nanny"]["pid"]
            and told["nanny"]["phase"] == "running"
            and told["units"]["nodenanny"]["ActiveState"] == "active"
        )

    return holds


def assert_adopted(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert after["nanny"]["worker"]["pid"] == before["nanny"]["worker"]["pid"]
    assert after["nanny"]["incarnation"] == before["nanny"]["incarnation"]
    assert after["nanny"]["healthz"] == before["nanny"]["healthz"]
    assert after["nanny"]["conditions"] == []
    restarts = [int(told["units"]["nodenanny"]["NRestarts"]) for told in (before, after)]
    assert restarts[1] == restarts[0] + 1


def test_a_killed_nanny_comes_back_and_takes_its_worker_over(node: Node) -> None:
    before = node.wait_until_ready()
    with node.probed() as answers:
        node.signal("KILL", before["units"]["nodenanny"]["MainPID"])

        after = node.wait_for(other_nanny(before), "another nanny")

    assert_adopted(before, after)
    assert_always_answered(answers)
    own = [one for one in answers if one["status"] == 200]
    assert len(own) > len(answers) / 2, "answered by the worker, not for it"
    assert after["units"]["nodenanny"]["NFileDescriptorStore"] == "1"
    node.wait_for(says_what_the_nanny_says, "the nanny's words in systemctl status")
    # Not merely alive: the next worker gets the same listening socket.
    node.nannyctl("restart", "--reason", "after adoption")
    assert (
        node.wait_until_ready(after=after["nanny"]["incarnation"])["nanny"]["healthz"]
        == after["nanny"]["healthz"]
    )


def test_a_stopped_nanny_misses_systemds_watchdog_and_its_successor_takes_over(node: Node) -> None:
    with node.drop_in("WatchdogSec=5s"):
        node.box.run("systemctl", "restart", "nodenanny")
        before = node.wait_until_ready()
        with node.probed() as answers:
            node.signal("STOP", before["units"]["nodenanny"]["MainPID"])

            after = node.wait_for(other_nanny(before), "another nanny")

        assert_adopted(before, after)
        assert_always_answered(answers)
        assert "Watchdog timeout" in node.box.journal("nodenanny", "-b")


def test_ten_crashes_in_a_row_leave_the_worker_where_it_is(node: Node) -> None:
    first = before = node.wait_until_ready()
    with node.probed() as answers:
        for _ in range(10):
            node.signal("KILL", before["units"]["nodenanny"]["MainPID"])
            after = node.wait_for(other_nanny(before), "another nanny")
            assert_adopted(before, after)
            before = after

    assert before["nanny"]["worker"]["pid"] == first["nanny"]["worker"]["pid"]
    assert_always_answered(answers)
    assert "219/CGROUP" not in node.box.journal("nodenanny", "-b")
    # No helper of a dead nanny is left beside those of the living one.
    group = f"/sys/fs/cgroup{first['units']['nodenanny']['ControlGroup']}"
    node.box.wait_until(
        lambda: len(node.box.run("cat", f"{group}/cgroup.procs").split()) <= 3,
        "the helpers of the dead to go",
    )
    node.wait_until_ready()


def test_without_systemds_store_the_socket_comes_back_from_the_worker(node: Node) -> None:
    with node.drop_in("FileDescriptorStoreMax=0"):
        node.box.run("systemctl", "restart", "nodenanny")
        before = node.wait_until_ready()
        assert before["units"]["nodenanny"]["NFileDescriptorStore"] == "0"
        with node.probed() as answers:
            node.signal("KILL", before["units"]["nodenanny"]["MainPID"])

            after = node.wait_for(other_nanny(before), "another nanny")

        assert_adopted(before, after)
        assert_always_answered(answers)
    # Where there is a store again, it is put there again.
    node.signal("KILL", after["units"]["nodenanny"]["MainPID"])
    last = node.wait_for(other_nanny(after), "another nanny")
    assert last["units"]["nodenanny"]["NFileDescriptorStore"] == "1"


def test_without_a_worker_the_socket_comes_back_from_systemds_store(node: Node) -> None:
    before = node.wait_until_ready()
    with node.probed() as answers:
        node.signal("KILL", before["units"]["nodenanny"]["MainPID"], before["nanny"]["worker"]["pid"])

        after = node.wait_until_ready(after=before["nanny"]["incarnation"])

    assert after["nanny"]["healthz"] == before["nanny"]["healthz"]
    assert after["nanny"]["conditions"] == []
    assert_always_answered(answers, cut_short=1)


def test_an_adopted_worker_can_still_use_its_temporary_directory(node: Node) -> None:
    """Systemd empties PrivateTmp when the main process ends, under whoever lives on."""
    before = node.wait_until_ready()
    worker = before["nanny"]["worker"]["pid"]
    node.signal("KILL", before["units"]["nodenanny"]["MainPID"])
    node.wait_for(other_nanny(before), "another nanny")

    node.box.run("nsenter", "-t", str(worker), "-m", "sh", "-euc", "echo kept > /tmp/of-the-worker")

    # Of the worker alone, too.
    assert node.box.ask("test", "-e", "/tmp/of-the-worker").status == 1


def test_a_worker_of_another_user_is_supervised_and_taken_over_with_the_capabilities_of_the_unit(
    node: Node,
) -> None:
    node.box.sh("id worker || useradd --system --no-create-home --groups nodenanny worker")
    agent = {key: value for key, value in QUICK["agent"].items() if not key.startswith("fault")}
    node.configure(QUICK | {"nanny": QUICK["nanny"] | {"worker_user": "worker"}, "agent": agent})
    with node.drop_in("FileDescriptorStoreMax=0"):
        node.box.run("systemctl", "restart", "nodenanny")
        before = node.wait_until_ready()
        pid = before["nanny"]["worker"]["pid"]
        assert node.box.run("stat", "-c", "%U", f"/proc/{pid}").strip() == "worker"

        node.signal("KILL", before["units"]["nodenanny"]["MainPID"])

        after = node.wait_for(other_nanny(before), "another nanny")
        assert_adopted(before, after)
        node.signal("STOP", pid)
        node.wait_until_ready(after=before["nanny"]["incarnation"])
        assert not node.is_alive(pid)


def test_an_adopted_worker_that_hangs_is_replaced_like_any_other(node: Node) -> None:
    before = node.wait_until_ready()
    node.signal("KILL", before["units"]["nodenanny"]["MainPID"])
    node.wait_for(other_nanny(before), "another nanny")

    node.signal("STOP", before["nanny"]["worker"]["pid"])

    node.wait_until_ready(after=before["nanny"]["incarnation"])
    assert not node.is_alive(before["nanny"]["worker"]["pid"])
