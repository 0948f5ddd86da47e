"""Metrics: declared, counted, and in the form that Prometheus' own tool accepts."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm.exc import StaleDataError

from server_stub.metrics import DECLARED, PREFIX, Metrics
from server_stub.store.engine import Database

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

NEEDS_PROMTOOL = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (make system-deps)"
)


def touched() -> Metrics:
    metrics = Metrics()
    for name, (kind, _, *labels) in DECLARED.items():
        label = dict.fromkeys(labels, "one")
        match kind:
            case "counter":
                metrics.count(name, 1, **label)
            case "gauge":
                metrics.set(name, 1.0, **label)
            case _:
                metrics.observe(name, 0.1, **label)
    return metrics


def test_every_metric_is_told_with_type_and_help() -> None:
    shown = touched().render()[0].decode()

    assert [name for name in DECLARED if f"# TYPE {PREFIX}{name} {DECLARED[name][0]}\n" not in shown] == []
    assert [name for name in DECLARED if f"# HELP {PREFIX}{name} {DECLARED[name][1]}\n" not in shown] == []


def test_only_counters_are_called_total() -> None:
    assert [
        name for name, (kind, *_) in DECLARED.items() if (kind == "counter") != name.endswith("_total")
    ] == []


def test_an_undeclared_metric_is_an_error() -> None:
    with pytest.raises(KeyError):
        Metrics().count("surprises_total")


def test_an_undeclared_label_is_an_error() -> None:
    with pytest.raises(ValueError, match="label"):
        Metrics().count("probes_total", surprise="x")


def test_counts_add_up_gauges_are_set_and_histograms_count_their_values() -> None:
    metrics = Metrics()
    metrics.count("probes_total", result="ok")
    metrics.count("probes_total", 2, result="ok")
    metrics.set("nodes", 3, state="READY")
    metrics.set("nodes", 5, state="READY")
    metrics.observe("probe_duration_seconds", 0.002, result="ok")
    metrics.observe("probe_duration_seconds", 20.0, result="ok")

    assert metrics.value("probes_total", result="ok") == 3
    assert metrics.value("nodes", state="READY") == 5
    assert metrics.value("probe_duration_seconds", result="ok") == 2
    assert metrics.value("probes_total", result="timeout") == 0


def test_two_servers_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.count("sync_rounds_total")

    assert (one.value("sync_rounds_total"), other.value("sync_rounds_total")) == (1, 0)


def test_the_process_tells_what_it_takes() -> None:
    text = Metrics().render()[0].decode()
    told = {
        line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line.startswith("process_")
    }

    assert told["process_resident_memory_bytes"] > 10e6
    assert told["process_cpu_seconds_total"] > 0
    assert 0 < told.get("process_open_fds", 1) <= told["process_max_fds"]


def test_label_values_are_escaped() -> None:
    metrics = Metrics()
    metrics.count("probes_total", result='a"b\\c\nd')

    assert f'{PREFIX}probes_total{{result="a\\"b\\\\c\\nd"}} 1.0\n' in metrics.render()[0].decode()


def test_a_scraper_that_asks_for_openmetrics_gets_it() -> None:
    shown, content_type = touched().render("application/openmetrics-text; version=1.0.0")

    assert content_type.startswith("application/openmetrics-text")
    assert shown.endswith(b"# EOF\n")


@NEEDS_PROMTOOL
def test_promtool_finds_nothing_to_say() -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=touched().render()[0], capture_output=True, check=False
    )

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)
async def test_writes_are_counted_by_what_they_were_for_and_how_they_ended(database_url: str) -> None:
    metrics = Metrics()
    database = await Database.open(database_url)
    database.on_write = metrics.write_ended
    try:
        async with database.writing("registry") as session:
            await session.execute(text("SELECT 1"))
        with pytest.raises(DBAPIError):
            async with database.writing("registry") as session:
                await session.execute(text("SELECT * FROM no_such_table"))
        with pytest.raises(LookupError):
            async with database.writing("registry"):
                raise LookupError("a change that thinks better of it")
        tries = 0

        async def change(_session: AsyncSession) -> None:
            nonlocal tries
            tries += 1
            raise StaleDataError

        with pytest.raises(StaleDataError):
            await database.write(change, "verdicts")
    finally:
        await database.close()

    ends = ("database_writes_total", "database_write_failures_total", "database_write_conflicts_total")
    assert [metrics.value(end, operation="registry") for end in ends] == [1, 1, 0]
    assert [metrics.value(end, operation="verdicts") for end in ends] == [0, 1, tries]
