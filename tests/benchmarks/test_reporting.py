"""Figures to table, JSON and charts: what is missed is marked, what is absent is said, nothing is lost on the way."""

import json
import xml.etree.ElementTree as ET
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks import machine, plots, runner, table
from benchmarks.figures import (
    OURS,
    Effort,
    Figure,
    as_json,
    from_json,
    measured,
    most,
    p50,
    p99,
    shown,
    single,
    summary,
)
from benchmarks.svg import Bar, bars

KILLS = "SIGKILL of a tiny worker -> answering again"
FIGURES = [
    measured("SIGKILL -> /livez 200, cold", "ms", [0.04, 0.05, 0.09], 1e3, limits=(p50(60),)),
    measured("missed beat -> verdict, idle", "ms late", [0.001, 0.02], 1e3, limits=(p99(10),)),
    single("nanny: RSS", "MiB", 14.0, limits=(most(15),)),
    Figure(
        "SIGKILL -> /livez 200, standby", "ms", words="this version has no standby worker", limits=(p50(10),)
    ),
    measured(KILLS, "ms", [0.05], 1e3, whose="peer"),
    measured(KILLS, "ms", [0.02, 0.025], 1e3),
    Figure(KILLS, "ms", whose="absent", words="not installed"),
]


BROKEN_PARTS = """
from benchmarks.figures import single

def failing(effort):
    raise RuntimeError("no such machine")

def partly(effort):
    effort.tell("begun")
    yield single("what came before", "ms", 1.0)
    raise ValueError("then it broke")

def well(effort):
    yield single("another", "ms", effort.count(full=100, quick=1))
"""


def test_a_summary_has_the_samples_order_statistics_in_the_figures_unit() -> None:
    found = summary([0.003, 0.001, 0.002], 1e3)
    assert (found.p50, found.p99, found.least, found.most, found.n) == (2.0, 3.0, 1.0, 3.0, 3)
    assert summary(list(range(1000))).p99 == 990


def test_no_samples_are_words_and_not_a_crash() -> None:
    assert measured("x", "ms", []).words == "nothing was measured"
    with pytest.raises(ValueError, match="nothing"):
        summary([])


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.0123, "0.012"), (0.5, "0.50"), (12.345, "12.3"), (1234.5, "1,234")]
)
def test_numbers_are_shown_with_the_digits_that_count(value: float, text: str) -> None:
    assert shown(value) == text


def test_bounds_that_are_not_kept_are_named_with_both_numbers() -> None:
    assert table.missed(FIGURES) == [
        "missed beat -> verdict, idle: p99 20.0 > 10.0 ms late",
        "SIGKILL -> /livez 200, standby: not measured ms",
    ]


def test_the_table_has_ours_first_and_the_peers_ratio_beside_it() -> None:
    lines = table.text(FIGURES).splitlines()
    [ours, peer, absent] = lines[-3:]
    assert ours.split()[-5:] == [OURS, "25.0", "25.0", "25.0", "2"]
    assert peer.split() == ["peer", "50.0", "1", "2.0", "x"]
    assert absent.split() == ["absent", "not", "installed"]
    assert "MISSED: p99 20.0 > 10.0" in table.text(FIGURES)


def test_markdown_has_the_same_rows_with_as_many_cells_each() -> None:
    lines = table.markdown(FIGURES).splitlines()
    assert len(lines) == 2 + len(FIGURES)
    assert {line.count("|") for line in lines} == {len(table.HEAD) + 1}


def test_figures_come_back_from_json_as_they_were() -> None:
    assert [from_json(json.loads(json.dumps(as_json(one)))) for one in FIGURES] == FIGURES


def test_charts_are_well_formed_and_say_what_is_absent() -> None:
    charts = plots.plots(FIGURES)
    assert set(charts) == {"restart.svg", "detection.svg", "peers-restart.svg"}
    for text in charts.values():
        root = ET.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "prefers-color-scheme: dark" in text
    assert "not installed" in charts["peers-restart.svg"]


@pytest.mark.parametrize("values", [(1, 2), (0.001, 1000), (5, 5), (0.3, 9)])
def test_a_longer_bar_is_never_drawn_shorter_and_all_fit(values: tuple[float, float]) -> None:
    rows = [Bar("a<b>&", values[0]), Bar("b", values[1], high=values[1] * 1.5, target=values[0])]
    root = ET.fromstring(bars("t", "ms", rows))
    widths = [float(one.attrib["width"]) for one in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths == sorted(widths)
    assert all(0 < width < 600 for width in widths)


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        bars("t", "ms", [Bar("a", None, words="not installed")])


def test_a_measurement_that_breaks_off_is_a_figure_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_parts.py").write_text(BROKEN_PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    told: list[str] = []
    parts = {name: (f"broken_parts:{name}", "") for name in ("failing", "partly", "well")}
    found = runner.run(parts, Effort(quick=True, tell=told.append), parts=parts)
    assert [one.part for one in found] == ["failing", "partly", "partly", "well"]
    assert [one.words for one in found[:3]] == [
        "failed: RuntimeError: no such machine",
        "",
        "failed: ValueError: then it broke",
    ]
    assert len(runner.failures(found)) == 2
    assert "begun" in told


def test_every_part_is_there() -> None:
    for place, _ in runner.PARTS.values():
        module, _, function = place.partition(":")
        assert callable(getattr(import_module(module), function))


def test_unknown_measurements_are_refused_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bench.main(["--only", "nonsense"]) == 2
    assert "healthz" in capsys.readouterr().err


def test_a_run_is_kept_and_shown_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # which a run takes away, to be put back
    kept = tmp_path / "figures.json"
    assert bench.main(["--quick", "--only", "step", "--json", str(kept)]) == 0
    first = capsys.readouterr().out
    where = json.loads(kept.read_text())["machine"]
    assert {"cpu", "cores", "kernel", "python", "load_1_min", "commit", "date", "quick"} <= set(where)
    assert bench.main(["--again", str(kept)]) == 0
    assert capsys.readouterr().out == first
    assert machine.described(where) in first
