"""Sub-cgroups on the real cgroup v2 mount of this machine; the search for our own on mount tables as found."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanny.errors import HostError
from nanny.linux.cgroup import Pressure, SubCgroup, own_cgroup_dir
from tests.support.processes import spawn_python, wait_until

SLEEPER = "import time; print('ready', flush=True); time.sleep(60)"
FAMILY = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        time.sleep(60)
print("ready", flush=True)
time.sleep(60)
"""
PURE = "31 23 0:28 / {at} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.fixture
def cgroup() -> Iterator[SubCgroup]:
    own = own_cgroup_dir()
    if own is None or not os.access(own, os.W_OK):
        pytest.skip("no writable cgroup v2 mount here")
    made = SubCgroup(f"{own}/nodenanny-test-{os.getpid()}")
    made.create()
    yield made
    if os.path.exists(made.path):
        made.kill()
        wait_until(made.remove, 10, "the test's cgroup to be removed")


@pytest.mark.root
def test_our_own_cgroup_lists_this_process() -> None:
    own = own_cgroup_dir()
    if own is None:
        pytest.skip("no cgroup v2 mount here")
    assert os.getpid() in SubCgroup(own).pids()


@pytest.mark.root
def test_an_adopted_process_is_counted_until_it_ends(leaves_nothing_behind: None, cgroup: SubCgroup) -> None:
    with spawn_python(SLEEPER) as child:
        child.read_line()
        assert (cgroup.pids(), cgroup.populated()) == ((), False)
        cgroup.adopt(child.pid)
        assert (cgroup.pids(), cgroup.populated()) == ((child.pid,), True)
        assert cgroup.remove() is False
    wait_until(lambda: not cgroup.populated(), 10, "the cgroup to be empty")
    assert cgroup.pids() == ()
    assert cgroup.remove() is True


@pytest.mark.root
def test_killing_ends_descendants_that_left_session_and_parent(
    leaves_nothing_behind: None, cgroup: SubCgroup
) -> None:
    with spawn_python(
        "import sys, os; sys.stdin.readline()\n" + FAMILY, stderr=None, start_new_session=True
    ) as child:
        cgroup.adopt(child.pid)
        assert child.popen.stdin is not None
        child.popen.stdin.write(b"go\n")
        child.popen.stdin.flush()
        assert child.read_line() == "ready"
        assert len(cgroup.pids()) == 4
        cgroup.kill()
        assert child.wait_for_exit() == -signal.SIGKILL
        assert child.read_line() == ""  # end of file: the last descendant has let go of it
    wait_until(lambda: not cgroup.populated(), 10, "the cgroup to be empty")


@pytest.mark.root
def test_a_zombie_does_not_keep_the_cgroup(cgroup: SubCgroup) -> None:
    with spawn_python(SLEEPER) as child:
        cgroup.adopt(child.pid)
        cgroup.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        wait_until(cgroup.remove, 10, "the cgroup to be removed above a zombie")


@pytest.mark.root
def test_cgroups_nested_by_the_worker_are_removed_too(cgroup: SubCgroup) -> None:
    os.makedirs(f"{cgroup.path}/a/b/c")
    os.mkdir(f"{cgroup.path}/d")
    assert cgroup.remove() is True
    assert not os.path.exists(cgroup.path)


@pytest.mark.root
def test_a_nested_live_process_keeps_it_and_is_seen_as_population(cgroup: SubCgroup) -> None:
    nested = SubCgroup(f"{cgroup.path}/nested")
    nested.create()
    with spawn_python(SLEEPER) as child:
        nested.adopt(child.pid)
        assert (cgroup.pids(), cgroup.populated(), cgroup.remove()) == ((), True, False)
        cgroup.kill()
        assert child.wait_for_exit() == -signal.SIGKILL
    wait_until(cgroup.remove, 10, "both cgroups to be removed")


@pytest.mark.root
def test_making_it_twice_says_that_it_was_there(cgroup: SubCgroup) -> None:
    assert cgroup.create() is False


@pytest.mark.root
def test_a_removed_cgroup_reads_as_an_empty_one(cgroup: SubCgroup) -> None:
    assert cgroup.remove() is True
    assert (cgroup.pids(), cgroup.populated(), cgroup.cpu_stat()) == ((), False, None)
    assert (cgroup.pressure("cpu"), cgroup.memory_events()) == (None, None)
    cgroup.kill()
    assert cgroup.remove() is True


@pytest.mark.root
def test_a_forked_child_moves_itself_by_pid_zero(leaves_nothing_behind: None, cgroup: SubCgroup) -> None:
    code = (
        "import sys; from nanny.linux.cgroup import SubCgroup; SubCgroup(sys.argv[1]).adopt(0);"
        "print('moved', flush=True); sys.stdin.read()"
    )
    with spawn_python(code, argv=(cgroup.path,)) as child:
        assert child.read_line() == "moved"
        assert cgroup.pids() == (child.pid,)


@pytest.mark.root
def test_adopting_a_dead_process_says_so(cgroup: SubCgroup) -> None:
    with spawn_python("pass") as child:
        child.wait_for_exit()
        with pytest.raises(ProcessLookupError):
            cgroup.adopt(child.pid)


@pytest.mark.root
def test_adopting_into_a_removed_cgroup_says_what_is_degraded(cgroup: SubCgroup) -> None:
    cgroup.remove()
    with pytest.raises(HostError, match="the process stays in the nanny's own cgroup"):
        cgroup.adopt(os.getpid())


@pytest.mark.root
def test_cpu_time_of_the_members_is_accounted_for(cgroup: SubCgroup) -> None:
    with spawn_python("while True: pass") as child:
        cgroup.adopt(child.pid)

        def used_s() -> float:
            account = cgroup.cpu_stat()
            assert account is not None
            return account.usage_s

        wait_until(lambda: used_s() > 0.05, 20, "50 ms of CPU time")


@pytest.mark.root
def test_pressure_is_read_where_the_kernel_keeps_it(cgroup: SubCgroup) -> None:
    if not os.path.exists(f"{cgroup.path}/cpu.pressure"):
        pytest.skip("no pressure stall information here")
    pressure = cgroup.pressure("cpu")
    assert pressure is not None
    assert pressure.some_total_s >= 0.0


@pytest.mark.root
def test_no_controller_is_ever_enabled(cgroup: SubCgroup) -> None:
    own = own_cgroup_dir()
    before = Path(f"{own}/cgroup.subtree_control").read_text()
    SubCgroup(f"{cgroup.path}/below").create()
    assert Path(f"{own}/cgroup.subtree_control").read_text() == before
    assert Path(f"{cgroup.path}/cgroup.subtree_control").read_text().strip() == ""


def test_accounts_of_a_host_with_controllers_are_understood(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text(
        "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\nnr_periods 3\nthrottled_usec 250000\n"
    )
    (tmp_path / "memory.events").write_text("low 0\nhigh 4\nmax 2\noom 1\noom_kill 1\n")
    (tmp_path / "memory.pressure").write_text(
        "some avg10=1.50 avg60=0.25 avg300=0.00 total=2000000\n"
        "full avg10=0.50 avg60=0.10 avg300=0.00 total=1000000\n"
    )
    (tmp_path / "cpu.pressure").write_text("some avg10=3.00 avg60=0.00 avg300=0.00 total=10\n")
    cgroup = SubCgroup(str(tmp_path))
    account = cgroup.cpu_stat()
    assert account is not None
    assert (account.usage_s, account.user_s, account.system_s, account.throttled_s) == (1.5, 1.0, 0.5, 0.25)
    assert cgroup.memory_events() == {"low": 0, "high": 4, "max": 2, "oom": 1, "oom_kill": 1}
    assert cgroup.pressure("memory") == Pressure(1.5, 0.25, 2.0, 0.5, 0.1, 1.0)
    assert cgroup.pressure("cpu") == Pressure(3.0, 0.0, 0.00001, 0.0, 0.0, 0.0)


def test_accounts_that_make_no_sense_are_host_errors(tmp_path: Path) -> None:
    cgroup = SubCgroup(str(tmp_path))
    for name, content, read in (
        ("cgroup.procs", "1\nx\n", cgroup.pids),
        ("cpu.stat", "usage_usec soon\n", cgroup.cpu_stat),
        ("cpu.stat", f"usage_usec {'9' * 400}\n", cgroup.cpu_stat),
        ("cpu.pressure", "some avg10\n", lambda: cgroup.pressure("cpu")),
        ("cpu.pressure", f"some total={'9' * 400}\n", lambda: cgroup.pressure("cpu")),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(HostError, match="understand"):
            read()


@pytest.mark.parametrize("root", ["\\999", "\\777", "\\x41", "a\\"])
def test_a_mount_whose_name_makes_no_sense_is_a_host_error(tmp_path: Path, root: str) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("0::/a\n")
    (tmp_path / "self" / "mountinfo").write_text(f"1 1 0:1 {root} / rw - cgroup2 x rw\n")
    with pytest.raises(HostError, match="understand"):
        own_cgroup_dir(str(tmp_path))


def _host(tmp_path: Path, own: str, mounts: str) -> str:
    """Make a /proc with these tables, and the directories that they may lead to."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(own)
    (tmp_path / "proc" / "self" / "mountinfo").write_text(mounts.replace("{at}", f"{tmp_path}/at"))
    for directory in ("at", "at/system.slice/nanny.service", "at/inner", "at space", "outside"):
        (tmp_path / directory).mkdir(parents=True, exist_ok=True)
        (tmp_path / directory / "cgroup.controllers").write_text("")
    return str(tmp_path / "proc")


@pytest.mark.parametrize(
    ("own", "mounts", "expected"),
    [
        ("0::/system.slice/nanny.service\n", PURE, "at/system.slice/nanny.service"),
        ("0::/\n", PURE, "at"),
        ("12:cpu:/x\n1:name=systemd:/y\n0::/inner\n", PURE, "at/inner"),
        ("0::/kubepods/pod1/inner\n", PURE.replace("0:28 /", "0:28 /kubepods/pod1"), "at/inner"),
        ("0::/kubepods/pod1\n", PURE.replace("0:28 /", "0:28 /kubepods/pod1"), "at"),
        ("0::/\n", PURE.replace("{at}", "{at}\\040space"), "at space"),
    ],
    ids=["unit", "root", "hybrid", "part-mounted", "part-mounted-root", "escaped-blank"],
)
def test_our_own_cgroup_is_found(tmp_path: Path, own: str, mounts: str, expected: str) -> None:
    assert own_cgroup_dir(_host(tmp_path, own, mounts)) == str(tmp_path / expected)


@pytest.mark.parametrize(
    ("own", "mounts"),
    [
        ("0::/\n", ""),
        ("0::/\n", PURE.replace("rw,nosuid", "ro,nosuid")),
        ("0::/\n", PURE.replace("cgroup2 cgroup2 rw", "cgroup2 cgroup2 ro")),
        ("0::/\n", PURE.replace("cgroup2", "cgroup")),
        ("4:cpu:/\n", PURE),
        ("0::/../outside\n", PURE),
        ("0::/inner (deleted)\n", PURE),
        ("0::/other\n", PURE.replace("0:28 /", "0:28 /kubepods/pod1")),
        ("0::/pod12\n", PURE.replace("0:28 /", "0:28 /pod1")),
        ("0::/not/there\n", PURE),
    ],
    ids=[
        "not-mounted",
        "mount-read-only",
        "file-system-read-only",
        "v1-only",
        "no-v2-line",
        "outside-the-namespace",
        "deleted",
        "other-part-mounted",
        "prefix-of-a-name",
        "directory-missing",
    ],
)
def test_without_a_writable_v2_cgroup_there_is_none(tmp_path: Path, own: str, mounts: str) -> None:
    assert own_cgroup_dir(_host(tmp_path, own, mounts)) is None
