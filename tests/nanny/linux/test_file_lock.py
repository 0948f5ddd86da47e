"""One holder a file: named, never inherited, gone with its process, carried over an execve."""

import os
import signal
from pathlib import Path

import pytest

from nanny.errors import HostError
from nanny.linux import file_lock
from nanny.linux.file_lock import AlreadyLocked, acquire, resume
from tests.support.processes import spawn_python

HOLDER = (
    "import sys; from nanny.linux.file_lock import acquire; lock = acquire(sys.argv[1]);"
    "print('locked', flush=True); sys.stdin.readline(); lock.release();"
    "print('released', flush=True); sys.stdin.read()"
)


def test_a_second_process_is_refused_with_the_holders_pid(
    leaves_nothing_behind: None, tmp_path: Path
) -> None:
    path = str(tmp_path / "lock")
    with spawn_python(HOLDER, argv=(path,)) as holder:
        assert holder.read_line() == "locked"
        with pytest.raises(AlreadyLocked) as refused:
            acquire(path)
        assert refused.value.pid == holder.pid
        assert str(holder.pid) in str(refused.value)


def test_the_lock_is_free_after_its_release(leaves_nothing_behind: None, tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with spawn_python(HOLDER, argv=(path,)) as holder:
        holder.read_line()
        assert holder.popen.stdin is not None
        holder.popen.stdin.write(b"\n")
        holder.popen.stdin.flush()
        assert holder.read_line() == "released"
        acquire(path).release()


def test_the_lock_ends_with_a_killed_holder(leaves_nothing_behind: None, tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with spawn_python(HOLDER, argv=(path,)) as holder:
        holder.read_line()
        holder.send_signal(signal.SIGKILL)
        holder.wait_for_exit()
        acquire(path).release()


def test_a_forked_child_that_outlives_the_holder_does_not_keep_the_lock(
    leaves_nothing_behind: None, tmp_path: Path
) -> None:
    path = str(tmp_path / "lock")
    code = (
        "import os, sys; from nanny.linux.file_lock import acquire; lock = acquire(sys.argv[1])\n"
        "if os.fork() == 0: print('forked', flush=True); sys.stdin.read(); os._exit(0)\n"
        "os.wait()"
    )
    with spawn_python(code, argv=(path,)) as holder:
        assert holder.read_line() == "forked"
        with pytest.raises(AlreadyLocked):
            acquire(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait_for_exit()
        acquire(path).release()
        assert holder.popen.stdin is not None
        holder.popen.stdin.close()
        assert holder.read_line() == ""  # the forked child was there all along


def test_the_same_process_cannot_lock_twice_and_does_not_lose_the_first_by_trying(
    leaves_nothing_behind: None, tmp_path: Path
) -> None:
    path = str(tmp_path / "lock")
    lock = acquire(path)
    with pytest.raises(AlreadyLocked) as refused:
        acquire(path)
    assert refused.value.pid == os.getpid()
    with spawn_python(HOLDER, argv=(path,), stderr=-3) as other:
        assert other.wait_for_exit() == 1
    lock.release()
    lock.release()
    acquire(path).release()


def test_the_lock_is_carried_over_an_execve_without_a_gap(
    leaves_nothing_behind: None, tmp_path: Path
) -> None:
    path = str(tmp_path / "lock")
    before = (
        "import os, sys; from nanny.linux.file_lock import acquire; lock = acquire(sys.argv[1]);"
        "os.set_inheritable(lock.fileno(), True); print('locked', flush=True); sys.stdin.readline();"
        "os.execv(sys.executable, [sys.executable, '-c', sys.argv[2], sys.argv[1], str(lock.fileno())])"
    )
    after = (
        "import os, sys; print('executed', flush=True); sys.stdin.readline();"
        "from nanny.linux.file_lock import resume; lock = resume(sys.argv[1], int(sys.argv[2]));"
        "print(os.get_inheritable(lock.fileno()), flush=True); sys.stdin.readline()"
    )
    with spawn_python(before, argv=(path, after), bufsize=0) as holder:
        assert holder.popen.stdin is not None
        for expected in ("locked", "executed", "False"):
            assert holder.read_line() == expected
            with pytest.raises(AlreadyLocked) as refused:
                acquire(path)
            assert refused.value.pid == holder.pid
            holder.popen.stdin.write(b"\n")
        assert holder.wait_for_exit() == 0
        acquire(path).release()


def test_the_file_is_made_for_its_owner_alone_and_stays(leaves_nothing_behind: None, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    acquire(str(path)).release()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_symbolic_link_is_not_followed(leaves_nothing_behind: None, tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="two nannies at once"):
        acquire(str(tmp_path / "lock"))
    assert not (tmp_path / "elsewhere").exists()


def test_a_missing_directory_is_a_host_error_that_names_the_path(
    leaves_nothing_behind: None, tmp_path: Path
) -> None:
    with pytest.raises(HostError, match="missing/lock"):
        acquire(str(tmp_path / "missing" / "lock"))


def test_a_file_that_was_replaced_is_locked_anew(leaves_nothing_behind: None, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with spawn_python(HOLDER, argv=(str(path),)) as holder:
        holder.read_line()
        path.unlink()
        lock = acquire(str(path))
        assert os.fstat(lock.fileno()).st_ino == path.stat().st_ino
        lock.release()


def test_a_file_that_is_replaced_while_it_is_being_locked_is_locked_anew(
    leaves_nothing_behind: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    real = file_lock._lock
    replacements = iter([True, True, False])

    def lock_and_replace(fd: int) -> int | None:
        if next(replacements):
            path.unlink()
        return real(fd)

    monkeypatch.setattr(file_lock, "_lock", lock_and_replace)
    lock = acquire(str(path))
    assert os.fstat(lock.fileno()).st_ino == path.stat().st_ino
    lock.release()


def test_resuming_by_a_descriptor_of_another_file_is_refused(
    leaves_nothing_behind: None, tmp_path: Path
) -> None:
    (tmp_path / "lock").touch()
    with (tmp_path / "other").open("w") as other, pytest.raises(HostError, match="another file"):
        resume(str(tmp_path / "lock"), other.fileno())
