"""From power-on to READY, with the settings as packaged; and what lasts over a reboot."""

from __future__ import annotations

from tests.systemd.node import QUICK, Node, order_of, says_what_the_nanny_says


def test_the_packaged_node_boots_to_ready_as_systemd_sees_it(node: Node) -> None:
    node.configure()
    node.box.reboot()

    told = node.wait_until_ready()

    nanny, link = told["units"]["nodenanny"], told["units"]["nodenanny-link"]
    assert (nanny["ActiveState"], nanny["SubState"], nanny["NRestarts"]) == ("active", "running", "0")
    assert (link["ActiveState"], link["SubState"], link["NRestarts"]) == ("active", "running", "0")
    assert int(nanny["MainPID"]) == told["nanny"]["nanny"]["pid"]
    assert told["nanny"]["healthz"] == "0.0.0.0:7080"
    assert node.box.run("systemctl", "list-units", "--failed", "--plain", "--no-legend", "nodenanny*") == ""
    node.wait_for(says_what_the_nanny_says, "the nanny's words in systemctl status")
    node.wait_for(
        lambda told: told["units"]["nodenanny-link"]["StatusText"] == "nanny reachable, server connected",
        "link's words in systemctl status",
    )


def test_nothing_about_a_sandboxed_node_is_amiss_to_its_agent(node: Node) -> None:
    """A read-only view of the file systems is the sandbox's doing, and no disk's failure."""
    told = node.wait_until_ready()

    assert told["nanny"]["conditions"] == []
    assert (told["server"][0]["health"], told["server"][0]["reasons"]) == ("healthy", [])


def test_up_is_up_again_after_a_reboot_with_a_later_incarnation(node: Node) -> None:
    before = node.status()

    node.box.reboot()

    after = node.wait_until_ready()["nanny"]
    assert after["boot_id"] != before["boot_id"]
    assert order_of(after) > order_of(before)
    assert after["desired"]["value"] == "up"


def test_an_ordered_stop_outlives_a_reboot_and_an_ordered_start_ends_it(node: Node) -> None:
    node.nannyctl("stop", "--reason", "maintenance")
    for _ in range(2):
        told = node.wait_until_in_phase("down")
        assert told["nanny"]["desired"]["value"] == "down"
        assert told["nanny"]["desired"]["reason"] == "maintenance"
        assert told["units"]["nodenanny"]["ActiveState"] == "active"
        node.box.reboot()
    node.wait_until_in_phase("down")

    node.nannyctl("start", "--reason", "done")

    node.wait_until_ready()
    assert node.status()["desired"]["value"] == "up"


def test_settings_that_cant_be_used_are_tried_again_at_leisure_and_healed_by_correcting_them(
    node: Node,
) -> None:
    node.configure(QUICK | {"nanny": QUICK["nanny"] | {"heartbeat": "watchdgo"}})
    node.box.ask("systemctl", "restart", "nodenanny")
    node.box.wait_until(
        lambda: node.box.journal("nodenanny", "-o", "cat").count("did you mean watchdog?") >= 2, "two tries"
    )

    tries = node.box.run(
        "journalctl", "-b", "-u", "nodenanny", "-o", "short-unix", "-g", "did you mean watchdog"
    ).split("\n")
    first, second = [float(line.split()[0]) for line in tries if line[:1].isdigit()][:2]
    assert second - first > 3

    node.configure(QUICK)
    node.wait_until_ready()
