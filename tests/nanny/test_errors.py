"""A HostError tells people what failed, where, why, and what no longer works."""

import errno

from nanny.errors import HostError, NannyError


def test_a_host_error_names_attempt_path_reason_and_what_is_degraded() -> None:
    error = HostError("lock", errno.EACCES, "/x/lock", "two nannies cannot be ruled out")
    assert str(error) == "cannot lock (/x/lock): Permission denied [EACCES]; two nannies cannot be ruled out"


def test_a_host_error_without_path_and_errno_stays_readable() -> None:
    assert str(HostError("understand 'x'", 0)) == "cannot understand 'x'"


def test_a_host_error_made_of_an_os_error_keeps_its_errno() -> None:
    error = HostError.from_os_error("read", OSError(errno.EIO, "boom"), "/x", "no account")
    assert (error.what, error.errno, error.path, error.degraded) == ("read", errno.EIO, "/x", "no account")
    assert isinstance(error, NannyError)


def test_an_errno_unknown_to_python_is_shown_as_a_number() -> None:
    assert "[4095]" in str(HostError("read", 4095))
