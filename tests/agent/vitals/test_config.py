"""What the supervisor passed is taken out of the environment; what is malformed or meant for others is absent."""

import pytest

from agent.vitals.config import VitalsConfig, claim_environ

NANNY = {
    "NOTIFY_SOCKET": "/run/n.sock",
    "WATCHDOG_USEC": "6000000",
    "WATCHDOG_PID": "7",
    "NANNY_HEARTBEAT_INTERVAL_S": "2.0",
    "NANNY_INCARNATION": "e/7",
    "LISTEN_PID": "7",
    "LISTEN_FDS": "2",
    "LISTEN_FDNAMES": "other:healthz",
}


def test_under_the_nanny_everything_is_found_and_taken() -> None:
    environ = {"PATH": "/bin"} | NANNY

    config = claim_environ(environ, pid=7)

    assert config == VitalsConfig(
        listener_fd=4, notify_socket="/run/n.sock", interval_s=2.0, incarnation="e/7"
    )
    assert environ == {"PATH": "/bin", "NANNY_INCARNATION": "e/7"}


def test_under_plain_systemd_a_stall_is_to_pull_the_watchdog() -> None:
    config = claim_environ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "3000000"}, pid=7)

    assert (config.interval_s, config.triggers_watchdog, config.notify_socket) == (1.0, True, "@n")


def test_by_hand_there_is_nothing_but_what_the_program_says() -> None:
    assert claim_environ({}, listen=("::1", 0)) == VitalsConfig(listen=("::1", 0))


@pytest.mark.parametrize(
    "environ",
    [
        {"LISTEN_FDS": "1"},  # no LISTEN_PID
        {"LISTEN_FDS": "1", "LISTEN_PID": "8"},
        {"LISTEN_FDS": "-1", "LISTEN_PID": "7"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "7", "LISTEN_FDNAMES": "other"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "7", "LISTEN_FDNAMES": "other:healthz"},
        {"NOTIFY_SOCKET": "vsock:2:1"},
        {"NOTIFY_SOCKET": ""},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "900000", "WATCHDOG_PID": "8"},
        {"NANNY_HEARTBEAT_INTERVAL_S": "nan"},
        {"NANNY_HEARTBEAT_INTERVAL_S": "-1"},
    ],
)
def test_what_is_malformed_or_meant_for_others_is_absent(environ: dict[str, str]) -> None:
    assert claim_environ(environ, pid=7) == VitalsConfig()


def test_without_names_the_first_socket_is_ours() -> None:
    assert claim_environ({"LISTEN_FDS": "1", "LISTEN_PID": "7"}, pid=7).listener_fd == 3
