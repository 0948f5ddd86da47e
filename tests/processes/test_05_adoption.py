"""Design 5.5, adoption and upgrade in place: a nanny's death or replacement is none of its worker's business.

Identity is pid + start time + boot id; each of the three is forged here.
"""

import json
import os
import signal
import sys
import zlib
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.real_nanny import BEATS, PRELUDE, RealNanny, Refused


def identity(status: dict) -> tuple[str, int]:  # type: ignore[type-arg]
    return status["incarnation"], status["worker"]["pid"]


def test_a_worker_outlives_its_killed_nanny_and_is_adopted(node: RealNanny) -> None:
    node.start()
    before = node.wait_for_phase("running")
    for _ in range(3):
        node.kill()
        node.start()
        after = node.wait_for_phase("running")
        assert identity(after) == identity(before)
    assert node.workers() == [before["worker"]["pid"]]
    # Not our child: how it ended nobody can say.
    os.kill(before["worker"]["pid"], signal.SIGKILL)
    after = node.wait_for_next(before)
    assert after["last_restart"]["detail"] == "unknown"
    assert after["last_restart"]["reason"] == "exited"


def test_an_adopted_worker_that_fell_silent_is_ended_like_any_other(node: RealNanny) -> None:
    node.start(BEATS, "--heartbeat-timeout-s=1", "--heartbeat-interval-s=0.2")
    before = node.wait_for_phase("running")
    node.kill()
    os.kill(before["worker"]["pid"], signal.SIGSTOP)
    node.start(BEATS, "--heartbeat-timeout-s=1", "--heartbeat-interval-s=0.2")
    after = node.wait_for_next(before)
    assert after["last_restart"]["reason"] == "lost"


def test_a_worker_that_died_while_no_nanny_watched_is_on_record_and_followed(node: RealNanny) -> None:
    node.start()
    before = node.wait_for_phase("running")
    node.kill()
    os.kill(before["worker"]["pid"], signal.SIGKILL)
    node.start()
    node.wait_for_next(before)
    journal = max(node.state_dir.glob("journal.0*.jsonl")).read_text()
    assert "ended while no nanny watched" in journal


def forge(node: RealNanny, change: tuple[str, str]) -> None:
    """Change a text in everything that is kept, checksums and all."""
    old, new = (text.encode() for text in change)
    kept = [node.runtime_dir / "facts", *node.state_dir.glob("journal.0*.jsonl")]
    changed = 0
    for path in kept:
        lines = []
        for line in path.read_bytes().splitlines():
            body = line[9:].replace(old, new)
            changed += body != line[9:]
            lines.append(b"%08x %b\n" % (zlib.crc32(body), body))
        path.write_bytes(b"".join(lines))
    assert changed, f"{old!r} is nowhere"


@pytest.mark.parametrize("what", ["start time", "boot"])
def test_a_process_of_another_start_time_or_boot_is_not_taken_for_the_worker(
    node: RealNanny, what: str
) -> None:
    node.start()
    before = node.wait_for_phase("running")
    pid, boot = before["worker"]["pid"], before["boot_id"]
    node.kill()
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = stat[19]
    if what == "boot":
        forge(node, (boot, "11111111-2222-3333-4444-555555555555"))
    else:
        forge(node, (f'"start_time_ticks":{ticks}', '"start_time_ticks":1'))
    node.start()
    after = node.wait_for_next(before)
    assert after["worker"]["pid"] != pid
    assert "worker adopted" not in node.log()


def test_an_upgrade_in_place_keeps_pid_worker_port_and_lock(node: RealNanny) -> None:
    node.start(BEATS, "--port=0")
    before = node.wait_for_phase("running")
    for times in (1, 2):
        assert node.ask("reexec")["pid"] == node.pid
        after = node.wait_for(lambda status, n=times: status["nanny"]["reexecuted"] == n, "the new image")  # type: ignore[misc]
        assert identity(after) == identity(before)
        assert after["nanny"]["pid"] == node.pid
        assert after["healthz"] == before["healthz"]
    # The exit status is known: the worker is still our child.
    os.kill(before["worker"]["pid"], signal.SIGKILL)
    after = node.wait_for_next(before)
    assert after["last_restart"]["detail"] == "SIGKILL"


def test_an_upgrade_in_place_keeps_the_port_without_a_worker_too(node: RealNanny) -> None:
    node.start(BEATS, "--port=0")
    before = node.wait_for_phase("running")
    node.order("stop")
    node.wait_for_phase("down")
    node.ask("reexec")
    after = node.wait_for(lambda status: status["nanny"]["reexecuted"] == 1, "the new image")
    assert (after["phase"], after["healthz"]) == ("down", before["healthz"])


def test_a_worker_that_dies_in_the_gap_of_an_upgrade_is_followed(node: RealNanny) -> None:
    node.start(BEATS, "--fault-point=recovering:STOP", wait=False)
    wait_until(lambda: stopped(node), 10, "the first image to stand still")
    node.send(signal.SIGCONT)
    node.wait_until_it_answers()
    before = node.wait_for_phase("running")
    node.ask("reexec")
    wait_until(lambda: stopped(node), 10, "the second image to stand still")
    os.kill(before["worker"]["pid"], signal.SIGKILL)
    node.send(signal.SIGCONT)
    after = node.wait_for_next(before)
    assert after["nanny"]["reexecuted"] == 1
    wait_until(lambda: not zombies_of(node.pid), 10, "every zombie to be reaped")


def test_sigterm_in_the_gap_of_an_upgrade_is_heard_by_the_new_image(node: RealNanny) -> None:
    node.start(BEATS, "--fault-point=recovering:STOP", wait=False)
    wait_until(lambda: stopped(node), 10, "the first image to stand still")
    node.send(signal.SIGCONT)
    node.wait_until_it_answers()
    node.wait_for_phase("running")
    node.ask("reexec")
    wait_until(lambda: stopped(node), 10, "the second image to stand still")
    node.send(signal.SIGTERM)
    node.send(signal.SIGCONT)
    assert node.wait_for_exit() == 0
    wait_until(lambda: not node.processes(), 10, "the worker to be ended in order")


def test_an_upgrade_refuses_settings_that_can_not_be_read_and_goes_on(node: RealNanny) -> None:
    config = node.directory / "nodenanny.toml"
    config.write_text("stall_warn_s = 5.0\n")
    node.start(BEATS, f"--config={config}")
    before = node.wait_for_phase("running")
    config.write_text("stall_warn_s = nonsense\n")
    with pytest.raises(Refused, match="not executed anew"):
        node.ask("reexec")
    assert identity(node.status()) == identity(before)
    # What a reload could not apply, an upgrade takes over.
    config.write_text("journal_timeout_s = 0.7\n")
    assert "journal_timeout_s" in node.order("reload")["detail"]
    assert "SettingsStale" in node.conditions()
    node.ask("reexec")
    node.wait_for(lambda status: status["nanny"]["reexecuted"] == 1, "the new image")
    assert "applied: nothing" in node.order("reload")["detail"]
    assert "SettingsStale" not in node.conditions()
    assert identity(node.status()) == identity(before)


LINK = PRELUDE + "# link\nbeat_for_ever()"


def test_no_second_link_beside_the_old_one(node: RealNanny) -> None:
    link_command = json.dumps([sys.executable, "-I", "-S", "-c", LINK])
    flags = ("--link=child", f"--link-command={link_command}")
    node.start(BEATS, *flags)
    node.wait_for(lambda status: status["link"]["stage"] == "ready", "link")
    for change in ("reexec", "link dies", "kill"):
        old = node.status()["link"]["pid"]
        if change == "reexec":
            node.ask("reexec")
            node.wait_for(lambda status: status["nanny"]["reexecuted"] == 1, "the new image")
        elif change == "kill":
            node.kill()
            node.start(BEATS, *flags)
        else:
            os.kill(old, signal.SIGKILL)
        node.wait_for(
            lambda status, old=old: status["link"]["stage"] == "ready" and status["link"]["pid"] != old,  # type: ignore[misc]
            "the next link",
        )
        pid = node.status()["link"]["pid"]
        wait_until(lambda pid=pid: node.workers("# link") == [pid], 10, "one link alone")  # type: ignore[misc]
    node.stop()
    wait_until(lambda: not node.processes(), 10, "link to end with its nanny")


@pytest.mark.parametrize(
    "content",
    [b"", b"00000000 {}\n", b"garbage", b'{"records":[1,"x",null]}', b'{"records":{}}', b'{"records":[{}],"link":["x"]}',
     b'{"boot":5,"link":[1.5,true],"records":[{"type":"incarnation-started","pid":"x"}]}', b"[]", b"null"],
)  # fmt: skip
def test_facts_of_any_content_cost_no_start(node: RealNanny, content: bytes) -> None:
    node.runtime_dir.mkdir()
    if content.startswith((b"{", b"[", b"n")):
        content = b"%08x %b\n" % (zlib.crc32(content), content)
    (node.runtime_dir / "facts").write_bytes(content)
    node.start()
    node.wait_for_phase("running")


def stopped(node: RealNanny) -> bool:
    return Path(f"/proc/{node.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def zombies_of(pid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] == "Z" and int(fields[1]) == pid:
                found.append(int(name))
    return found
