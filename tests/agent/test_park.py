"""The agent's park: it answers while it waits, goes on as whoever it is told to be, and ends with its channel."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.arguments import files_read, settings_of_words
from agent.code_stamp import Comparison, code_stamp, first_change
from nanny.protocol import standby_words
from nanny.protocol.errors import ProtocolViolation
from tests.support.dead_mount import dead_mount, why_no_dead_mount
from tests.support.processes import StartedProcess, spawn_python, wait_until

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")
WHY_NOT = why_no_dead_mount()
PROGRAM = """
import os, socket, sys
os.dup2(int(sys.argv[1]), 3)
os.close(int(sys.argv[1]))
from agent.arguments import files_read, settings_of_words
from agent.code_stamp import Comparison, code_stamp
from agent.park import is_standby, wait_for_wake
assert is_standby(os.environ)
wait_for_wake(os.environ, Comparison(code_stamp(sys.argv[2:])))
assert not is_standby(os.environ)
try:
    where = socket.socket(fileno=3).getsockname()[1]
except OSError:
    where = 0
print(os.environ["NANNY_INCARNATION"], "PATH" in os.environ, where, flush=True)
sys.stdin.read()
"""


@contextmanager
def parked(*files: str) -> Iterator[tuple[socket.socket, StartedProcess]]:
    """A parked process, whose stamp has these files in it, and the nanny's end of its channel."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    env = os.environ | {
        standby_words.STANDBY_FD_VARIABLE: "3",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    with ours, theirs:
        ours.settimeout(30)
        fd = theirs.fileno()
        with spawn_python(PROGRAM, argv=(str(fd), *files), env=env, pass_fds=(fd,)) as process:
            theirs.close()
            assert ours.recv(100) == standby_words.PARKED
            yield ours, process


def asked(channel: socket.socket, word: bytes) -> bytes:
    channel.send(word)
    return channel.recv(1024)


def test_it_answers_calls_and_words_of_a_later_nanny_disturb_it_as_little_as_checks() -> None:
    with parked() as (channel, _):
        assert asked(channel, standby_words.CALL) == standby_words.HERE
        channel.send(b"sing")
        assert asked(channel, standby_words.CHECK) == standby_words.SAME
        assert asked(channel, standby_words.CALL) == standby_words.HERE


def test_it_goes_on_with_the_environment_and_the_listener_that_it_is_told() -> None:
    with parked() as (channel, process), socket.create_server(("127.0.0.1", 0)) as listener:
        environ = {"NANNY_INCARNATION": "epoch/7"}
        socket.send_fds(channel, [standby_words.wake(environ)], [listener.fileno()])
        assert channel.recv(100) == b"", "the channel's end says that the wake was taken"
        assert process.read_line() == f"epoch/7 False {listener.getsockname()[1]}"


def test_without_a_listener_there_is_none() -> None:
    with parked() as (channel, process):
        channel.send(standby_words.wake({"NANNY_INCARNATION": "epoch/8", "PATH": "/bin"}))
        assert process.read_line() == "epoch/8 True 0"


def test_it_ends_when_the_nanny_is_gone() -> None:
    with parked() as (channel, process):
        channel.close()
        assert process.popen.wait(timeout=30) == 0


def test_it_tells_which_file_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("a = 1")
    with parked(str(file)) as (channel, _):
        assert asked(channel, standby_words.CHECK) == standby_words.SAME
        file.write_text("a = 23")
        assert standby_words.change_in(asked(channel, standby_words.CHECK)) == str(file)


@pytest.mark.root
@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_a_check_that_hangs_holds_up_neither_calls_nor_the_wake(tmp_path: Path) -> None:
    (tmp_path / "alive").mkdir()
    (tmp_path / "alive" / "file").touch()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "alive")
    with dead_mount(tmp_path / "dead") as dead, parked(str(link / "file")) as (channel, process):
        link.unlink()
        link.symlink_to(dead)
        for _ in range(3):
            channel.send(standby_words.CHECK)
            assert asked(channel, standby_words.CALL) == standby_words.HERE
        assert len(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()) == 1
        channel.send(standby_words.wake({"NANNY_INCARNATION": "epoch/9"}))
        assert process.read_line() == "epoch/9 False 0"


def test_a_stamp_knows_replaced_grown_and_vanished_files(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("replaced", "grown", "vanished", "new")]
    for file in files[:3]:
        file.write_text("x")
    stamp = code_stamp(map(str, files))
    assert str(Path(os.__file__)) in stamp
    assert first_change(stamp) == ""
    other = tmp_path / "other"
    other.write_text("y")
    os.utime(other, ns=(0, files[0].stat().st_mtime_ns))
    os.replace(other, files[0])
    assert first_change(stamp) == str(files[0])
    for file, change in ((files[1], "append"), (files[2], "unlink"), (files[3], "append")):
        stamp = code_stamp([str(file)])
        if change == "append":
            with file.open("a") as opened:
                opened.write("z")
        else:
            file.unlink()
        assert first_change(stamp) == str(file)


@pytest.mark.parametrize("given", [(), ("--server-ca-file", "ca.pem")])
def test_settings_and_certificates_count_as_what_was_loaded(given: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.touch()
    words = ["run", "--config", str(file), *given]
    config = settings_of_words(words)
    assert not isinstance(config, int)
    assert files_read(words, config) == (str(file), *given[1:])


def test_there_is_one_comparison_at_a_time_and_nothing_of_it_stays() -> None:
    comparison = Comparison(code_stamp())
    not_for_the_child = os.open("/dev/null", os.O_RDONLY)
    assert comparison.begin(not_for_the_child) is True
    assert comparison.begin(not_for_the_child) is False
    assert comparison.finish() == ""
    assert comparison.fd == -1
    comparison.leave()
    os.close(not_for_the_child)


def test_a_comparison_that_the_wake_cuts_short_leaves_no_zombie() -> None:
    comparison = Comparison(code_stamp())
    assert comparison.is_over()
    not_for_the_child = os.open("/dev/null", os.O_RDONLY)
    assert comparison.begin(not_for_the_child)
    comparison.leave()
    os.close(not_for_the_child)
    wait_until(comparison.is_over, 20, "its child to be waited for")


@pytest.mark.parametrize("frame", [b"wake", b"wake ", b"wake []", b'wake {"a": 1}', b"wake {"])
def test_a_wake_that_is_none_is_refused(frame: bytes) -> None:
    if frame == b"wake":
        assert standby_words.environment_of(frame) is None
    else:
        with pytest.raises(ProtocolViolation):
            standby_words.environment_of(frame)


def test_a_wake_carries_any_environment_that_fits_one_datagram() -> None:
    environ = {"A": "=\n\x00ä\udcff", "B": ""}
    assert standby_words.environment_of(standby_words.wake(environ)) == environ
    with pytest.raises(ProtocolViolation):
        standby_words.wake({"A": "x" * standby_words.FRAME_LIMIT_BYTES})
