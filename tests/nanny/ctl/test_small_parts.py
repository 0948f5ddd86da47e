"""What nannyctl is made of, where no nanny is needed: news of a log, a health verdict, a terminal, the parser."""

import io

import pytest

from nanny.ctl.arguments import VERBS, parse
from nanny.ctl.healthcheck import judge
from nanny.ctl.logs import news
from nanny.ctl.terminal import PLAIN, Terminal, table, visible, visible_lines

LONG = "".join(f"line {i}\n" for i in range(5000))


@pytest.mark.parametrize(
    ("before", "latest", "expected"),
    [
        ("", "a\n", ("a\n", False)),
        ("a\n", "a\nb\n", ("b\n", False)),
        ("a\n", "a\n", ("", False)),
        ("tick\n" * 3, "tick\n" * 5, ("tick\n" * 2, False)),
        (LONG, LONG[10000:] + "new\n", ("new\n", False)),
        (LONG, "quite other\n", ("quite other\n", True)),
        (LONG, "", ("", True)),
    ],
)
def test_news_are_what_the_next_look_has_more(before: str, latest: str, expected: tuple[str, bool]) -> None:
    assert news(before, latest) == expected


@pytest.mark.parametrize(
    ("told", "allow", "strict", "expected"),
    [
        ({"healthy": True, "phase": "running", "draining": False}, False, True, ""),
        ({"healthy": True, "phase": "running", "draining": True}, False, False, ""),
        ({"healthy": True, "phase": "running", "draining": True}, False, True, "running, draining"),
        ({"healthy": False, "phase": "degraded", "draining": False}, False, False, "degraded"),
        ({"healthy": False, "phase": "degraded", "draining": False}, True, False, ""),
        ({"healthy": False, "phase": "degraded", "draining": True}, True, True, "degraded, draining"),
        ({"healthy": False, "phase": "failed", "draining": False}, True, False, "failed"),
        ({}, True, True, "unknown"),
        ({"healthy": "yes", "phase": "running"}, False, False, "running"),
    ],
)
def test_a_health_verdict_is_strict_unless_told(
    told: dict[str, object], allow: bool, strict: bool, expected: str
) -> None:
    assert judge(told, allow_degraded=allow, fail_when_draining=strict) == expected


def test_common_options_stand_before_or_after_the_verb() -> None:
    assert parse(["--runtime-dir", "/a", "status"]).runtime_dir == "/a"
    assert parse(["status", "--runtime-dir", "/a"]).runtime_dir == "/a"
    assert parse(["--runtime-dir", "/a", "status", "--runtime-dir", "/b"]).runtime_dir == "/b"
    assert parse(["status"]).runtime_dir is None
    assert parse(["--runtime-dir", "status", "explain"]).verb == "explain"


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_has_help(verb: object, capsys: pytest.CaptureFixture[str]) -> None:
    name = getattr(verb, "name", "")
    with pytest.raises(SystemExit) as caught:
        parse([name, "--help"])
    assert caught.value.code == 0
    assert f"usage: nannyctl {name}" in capsys.readouterr().out


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False), ({"NO_COLOR": "1", "CLICOLOR_FORCE": "1"}, False)],
)  # fmt: skip
def test_colour_is_for_terminals_that_want_it(environ: dict[str, str], expected: bool) -> None:
    assert Terminal(Tty(), Tty(), environ).paint.is_coloured is expected
    assert Terminal(io.StringIO(), io.StringIO(), environ).paint.is_coloured is False


def test_a_transient_line_is_taken_away_before_the_next() -> None:
    out, err = io.StringIO(), Tty()
    terminal = Terminal(out, err, {})
    terminal.transient("waiting for 3 s")
    terminal.transient("short")
    terminal.lines(["done"])
    assert out.getvalue() == "done\n"
    assert err.getvalue().endswith("\r" + " " * len("short") + "\r")


def test_no_progress_is_told_to_a_program() -> None:
    err = Tty()
    terminal = Terminal(io.StringIO(), err, {})
    terminal.is_quiet = True
    terminal.progress("x")
    terminal.transient("y")
    assert err.getvalue() == ""


def test_control_characters_lose_their_power() -> None:
    assert visible("a\x1b[2J\nb\tc\x00") == "a\N{REPLACEMENT CHARACTER}[2J b c\N{REPLACEMENT CHARACTER}"
    assert visible_lines("a\r\nb\x07\tc\n") == "a\nb\N{REPLACEMENT CHARACTER}\tc\n"


def test_a_table_is_as_wide_as_its_widest_cells() -> None:
    rows = [[("name", "long name"), ("", "1")], [("name", "x"), ("", "a last column may be of any length")]]
    assert table(("NAME", "N"), rows, PLAIN, indent=" ") == [
        " NAME       N",
        " long name  1",
        " x          a last column may be of any length",
    ]
