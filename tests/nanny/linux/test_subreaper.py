"""prctl's effects, each seen from outside the process that asked for it."""

import os
import signal

import pytest

from nanny.linux import procfs
from nanny.linux.pidfd import send_signal
from tests.support.processes import spawn_python

# Two processes share one pipe: a line is one write, or they mix.
ORPHAN_MAKER = """
import os, sys, time
from nanny.linux.subreaper import become_subreaper
if sys.argv[1] == "subreaper":
    become_subreaper()
middle = os.fork()
if middle == 0:
    middle = os.getpid()
    if os.fork() == 0:
        # Tell who our parent is once that has changed, then wait for the end.
        while os.getppid() == middle:
            time.sleep(0.005)
        os.write(1, b"%d\\n" % os.getppid())
        os.read(0, 1)
        os._exit(0)
    os._exit(0)
os.waitpid(middle, 0)
# Still a child of ours? Reap it; else there is none.
try:
    os.wait()
    os.write(1, b"reaped\\n")
except ChildProcessError:
    os.write(1, b"no child\\n")
"""


def test_a_subreaper_inherits_and_reaps_its_orphaned_grandchild(leaves_nothing_behind: None) -> None:
    with spawn_python(ORPHAN_MAKER, argv=("subreaper",)) as child:
        assert child.read_line() == str(child.pid)
        assert child.popen.stdin is not None
        child.popen.stdin.close()
        assert child.read_line() == "reaped"


def test_without_it_the_orphan_goes_elsewhere(leaves_nothing_behind: None) -> None:
    with spawn_python(ORPHAN_MAKER, argv=("plain",)) as child:
        lines = {child.read_line(), child.read_line()}
        assert "no child" in lines
        assert str(child.pid) not in lines
        assert child.popen.stdin is not None
        child.popen.stdin.close()
        assert child.read_line() == ""  # the orphan, the last holder of the pipe, has ended


@pytest.mark.parametrize(
    ("name", "shown"),
    [("nanny", "nanny"), ("nanny: worker-1234567", "nanny: worker-1"), ("", ""), ("a) (b", "a) (b")],
)
def test_the_process_name_is_seen_by_others_cut_to_fifteen_bytes(name: str, shown: str) -> None:
    code = (
        "import sys; from nanny.linux.subreaper import set_process_name; set_process_name(sys.argv[1]);"
        "print('ready', flush=True); sys.stdin.read()"
    )
    with spawn_python(code, argv=(name,)) as child:
        child.read_line()
        assert procfs.read_stat(child.pid).comm == shown


def test_a_helper_dies_with_its_parent(leaves_nothing_behind: None) -> None:
    code = """
import os, signal, time
from nanny.linux.subreaper import set_parent_death_signal
parent = os.getpid()
if os.fork() == 0:
    set_parent_death_signal(signal.SIGKILL, parent)
    print(os.getpid(), flush=True)
    time.sleep(60)
time.sleep(60)
"""
    with spawn_python(code) as child:
        helper = os.pidfd_open(int(child.read_line()))
        try:
            child.send_signal(signal.SIGKILL)
            child.wait_for_exit()
            assert child.read_line() == ""  # end of file: nobody holds its stdout any more
        finally:
            send_signal(helper, signal.SIGKILL)
            os.close(helper)


def test_a_parent_that_died_before_the_call_is_noticed(leaves_nothing_behind: None) -> None:
    code = (
        "import os, signal; from nanny.linux.subreaper import set_parent_death_signal\n"
        "try: set_parent_death_signal(signal.SIGKILL, os.getppid() + 1)\n"
        "except ProcessLookupError as error: print(error, flush=True)"
    )
    with spawn_python(code) as child:
        assert child.read_line() == f"parent {os.getpid() + 1} has ended, {os.getpid()} took over"


def test_importing_the_wrappers_does_not_load_ctypes(leaves_nothing_behind: None) -> None:
    code = "import sys; import nanny.linux.subreaper, nanny.linux.pidfd; print('ctypes' in sys.modules, flush=True)"
    with spawn_python(code) as child:
        assert child.read_line() == "False"
