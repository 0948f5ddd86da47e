"""Link as a unit and a user of its own: what its sandbox lets it do, and how it comes back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.systemd.installation import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.systemd.node import Node

ALLOWED = {"read the settings", "ask the nanny", "ask the server", "resolve a name"}
REFUSED = {
    "read the state": "EACCES",
    "read the facts": "EACCES",
    "read passwords": "EACCES",
    "see other processes": "ENOENT",
    "read sysctls": "ENOENT",
    "see a home": "EACCES",
    "write settings": "EROFS",
    "write the program": "EROFS",
    "write state": "EROFS",
    "kill the worker": "EPERM",
    "kill init": "EPERM",
    "trace the worker": "EPERM",
    "become root": "EPERM",
    "change an owner": "EPERM",
    "mount": "EPERM",
    "leave a namespace": "EPERM",
    "raise a limit": "EPERM",
    "speak netlink": "EAFNOSUPPORT",
    "capture packets": "EAFNOSUPPORT",
    "make code": "EPERM",
    "execute a file of its own": "EACCES",
    "use a device": "ENOENT",
}


def another_link(before: str) -> Callable[[dict[str, Any]], bool]:
    """Whether systemd calls another link than before started."""

    def holds(told: dict[str, Any]) -> bool:
        link = told["units"]["nodenanny-link"]
        return link["ActiveState"] == "active" and link["MainPID"] not in {"0", before}

    return holds


def test_link_has_a_user_of_its_own_and_no_privilege_at_all(node: Node) -> None:
    pid = node.unit("nodenanny-link")["MainPID"]

    lines = node.box.run("cat", f"/proc/{pid}/status").splitlines()
    status = {line.partition(":")[0]: line.partition(":")[2].split() for line in lines}
    uid = node.box.run("id", "-u", "nodenanny-link").strip()
    gid = node.box.run("getent", "group", "nodenanny").split(":")[2]
    assert status["Uid"] == [uid] * 4
    assert status["Gid"] == [gid] * 4
    assert {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {
        key: ["0000000000000000"] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    }
    assert (status["NoNewPrivs"], status["Seccomp"]) == (["1"], ["2"])


def test_links_sandbox_is_enforced(node: Node) -> None:
    """Another program, in a unit that differs from link's in the program alone, tries what link may not do."""
    worker = node.status()["worker"]["pid"]
    unit = node.box.run("cat", "/usr/lib/systemd/system/nodenanny-link.service")
    kept = [
        line
        for line in unit.splitlines()
        if not line.startswith(("Type=", "NotifyAccess=", "ExecStart=", "Restart", "WatchdogSec="))
    ]
    at = kept.index("[Service]") + 1
    kept[at:at] = [
        "Type=oneshot",
        f"ExecStart={PREFIX}/bin/python -I /src/inside/sandbox_probe.py {worker}",
        "StandardOutput=file:/run/attempts.json",
    ]
    node.box.write("/run/systemd/system/tried.service", "\n".join(kept))

    node.box.sh("systemctl daemon-reload; systemctl start tried")

    told = json.loads(node.box.run("cat", "/run/attempts.json"))
    assert {name: how for name, how in told.items() if name not in ALLOWED} == REFUSED
    assert {name: told[name] for name in ALLOWED} == dict.fromkeys(ALLOWED, "done")
    assert node.status()["worker"]["pid"] == worker


def test_an_order_of_the_server_arrives_through_link_and_ends_with_its_outcome(node: Node) -> None:
    before = node.status()
    name = before["node_name"]

    told = node.box.run(
        f"{PREFIX}/bin/server-stub", "restart", name, "--json", "--url", "http://127.0.0.1:8470", "--reason", "test",
        "--wait", "60s",
    )  # fmt: skip

    assert json.loads(told)["state"] == "done", told
    after = node.wait_until_ready(after=before["incarnation"])
    assert after["nanny"]["worker"]["pid"] != before["worker"]["pid"]


def test_evidence_reaches_the_server_through_the_sandbox_and_nothing_else_of_the_state_does(
    node: Node,
) -> None:
    name = node.status()["node_name"]
    server_stub = f"{PREFIX}/bin/server-stub"
    to_server = ("--url", "http://127.0.0.1:8470")
    node.box.run(
        server_stub, "order", "collect-evidence", name, "--reason", "a look", "--wait", "60s", *to_server
    )

    told = json.loads(node.box.run(server_stub, "evidence", "list", name, "--json", *to_server))
    bundle = told["evidence"][0]["bundle"]
    node.box.run(server_stub, "evidence", "fetch", name, bundle, "-o", "/run/bundle.tar.gz", *to_server)
    files = node.box.run("tar", "-tzf", "/run/bundle.tar.gz").split()
    as_link = ("setpriv", "--reuid=nodenanny-link", "--regid=nodenanny", "--clear-groups")
    journal = node.box.sh(f"{' '.join(as_link)} cat /var/lib/nodenanny/journal*.jsonl 2>&1 || true")
    listing = node.box.sh(f"{' '.join(as_link)} ls /var/lib/nodenanny 2>&1 || true")

    assert f"{bundle}/summary.txt" in files
    assert "Permission denied" in journal or "No such file" in journal
    assert "Permission denied" in listing


def test_a_link_that_dies_or_hangs_is_replaced_and_the_worker_does_not_notice(node: Node) -> None:
    worker = node.status()["worker"]["pid"]
    with node.drop_in("WatchdogSec=6s", unit="nodenanny-link"):
        node.box.run("systemctl", "restart", "nodenanny-link")
        for signal in ("KILL", "STOP"):
            before = node.wait_until_ready()["units"]["nodenanny-link"]
            node.signal(signal, before["MainPID"])
            node.wait_for(
                another_link(before["MainPID"]), f"another link after SIG{signal}", unit="nodenanny-link"
            )
        after = node.wait_until_ready()
    assert after["nanny"]["worker"]["pid"] == worker
    assert int(after["units"]["nodenanny-link"]["NRestarts"]) >= 2
