"""Metrics as Prometheus text."""

from __future__ import annotations

import pytest

from server_stub.metrics import DECLARED, PREFIX, Metrics


def test_every_metric_is_declared_with_type_and_help() -> None:
    text = Metrics().render()

    assert [name for name in DECLARED if f"# TYPE {PREFIX}{name} {DECLARED[name][0]}\n" not in text] == []
    assert [
        name for name, (kind, _) in DECLARED.items() if (kind == "counter") != name.endswith("_total")
    ] == []


def test_an_undeclared_metric_is_an_error() -> None:
    with pytest.raises(KeyError):
        Metrics().count("surprises_total")


def test_counts_add_up_and_gauges_are_set() -> None:
    metrics = Metrics()
    metrics.count("probes_total", result="ok")
    metrics.count("probes_total", 2, result="ok")
    metrics.set("nodes", 3, state="READY")
    metrics.set("nodes", 5, state="READY")

    assert metrics.value("probes_total", result="ok") == 3
    assert f'{PREFIX}nodes{{state="READY"}} 5\n' in metrics.render()


def test_label_values_are_escaped() -> None:
    metrics = Metrics()
    metrics.count("probes_total", result='a"b\\c\nd')

    assert f'{PREFIX}probes_total{{result="a\\"b\\\\c\\nd"}} 1\n' in metrics.render()
