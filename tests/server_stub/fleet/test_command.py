"""The flags of `server-stub simulate`: what they come to, and what is refused in words."""

import argparse

import pytest

from server_stub.fleet import command
from server_stub.fleet.plan import Behaviour, MassFailure, Some


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_flags(parser)
    return parser.parse_args(words)


def test_flags_become_a_plan() -> None:
    plan = command.plan_from(
        arguments(
            *("--nodes", "10000", "--connected", "4000", "--seconds", "30", "--seed", "7"),
            *("--slow", "100:2.5", "--refusing", "10", "--silent", "3", "--stalled", "4"),
            *(
                "--restarting",
                "50",
                "--churn",
                "20:40",
                "--mass-failure",
                "5:1000:silent",
                "--mass-return",
                "20",
            ),
        )
    )
    assert (plan.nodes, plan.connected, plan.processes, plan.seconds, plan.seed) == (10000, 4000, 2, 30.0, 7)
    assert plan.misbehaving == {
        Behaviour.SLOW: Some(100, 2.5),
        Behaviour.REFUSING: Some(10),
        Behaviour.SILENT: Some(3),
        Behaviour.STALLED: Some(4),
        Behaviour.RESTARTING: Some(50, 60.0),
        Behaviour.CHURNING: Some(20, 40.0),
    }
    assert plan.failure == MassFailure(5.0, 1000, Behaviour.SILENT, 20.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--slow", "many"), "--slow many: expected COUNT or COUNT:SECONDS"),
        (("--churn", "5:0"), "--churn 5:0: expected"),
        (("--mass-failure", "5"), "--mass-failure 5: expected AT:COUNT"),
        (("--mass-failure", "5:10:slow"), "ways: refusing, silent, stalled"),
        (("--mass-failure", "5:10", "--mass-return", "5"), "is not after"),
        (("--mass-return", "5"), "nobody would be away"),
        (("--processes", "-1"), "expected at least 1"),
        (("--nodes", "100000"), "descriptors"),
        (("--server", "http://192.0.2.1:80"), "must be on loopback"),
        (("--server", "http://127.0.0.1:80", "--known"), "of its own"),
    ],
)
def test_what_cannot_be_ends_with_2_and_the_reason(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(arguments(*words)) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""


def test_later_runs_sort_behind_earlier_ones() -> None:
    first = command.fresh_run()
    assert len(first) == len("01900000-0000-7000")
    assert first[:13] <= command.fresh_run()[:13]
