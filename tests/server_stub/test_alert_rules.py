"""The alert rules, judged by Prometheus' own tool: they are sound, and each counter of failures sets one off."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from server_stub.metrics import DECLARED, PREFIX

RULES = Path(__file__).parents[2] / "packaging" / "prometheus" / "nodenanny-server.rules.yml"
FAILURE = re.compile(r"failures|conflicts|contradictions|violations|overruns|withheld|missed|refused")
LABELS = {
    ("probes_total", "result"): "server-fault",
    ("commands_total", "state"): "failed",
    ("http_requests_total", "status"): "500",
}
SPEAKING = tuple(name for name, label in LABELS)

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (make system-deps)"
)


def promtool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=60, check=False)


def alerts_on(metric: str) -> list[str]:
    """The alerts whose expression reads this metric."""
    found, name = [], ""
    for line in RULES.read_text().splitlines():
        if line.strip().startswith("- alert:"):
            name = line.partition(":")[2].strip()
        elif line.strip().startswith(("expr:", "sum(")) and f"{PREFIX}{metric}" in line:
            found.append(name)
    return found


def series_of(metric: str) -> str:
    labels = ",".join(f'{label}="{LABELS.get((metric, label), "one")}"' for label in DECLARED[metric][2:])
    return f"{PREFIX}{metric}{{{labels}}}" if labels else f"{PREFIX}{metric}"


def firing(tmp_path: Path, series: str, values: str, alert: str) -> subprocess.CompletedProcess[str]:
    """Run the rules over one series for an hour, and ask that the alert fires at its end; promtool shows what did."""
    asked = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": series, "values": values}],
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
                        "eval_time": "60m",
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    }
                ],
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(json.dumps(asked))  # JSON is YAML
    return promtool("test", "rules", str(path))


def test_the_rules_are_sound() -> None:
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_metric_that_a_rule_reads_exists() -> None:
    read = set(re.findall(rf"{PREFIX}(\w+)", RULES.read_text()))

    assert read - set(DECLARED) == set()


def test_every_alert_says_what_to_do() -> None:
    text = RULES.read_text()

    assert text.count("- alert:") == text.count("action:") == text.count("summary:") > 20


COUNTERS_OF_FAILURES = sorted(
    name
    for name, (kind, *_) in DECLARED.items()
    if kind == "counter" and (FAILURE.search(name) or name in SPEAKING)
)


@pytest.mark.parametrize("metric", COUNTERS_OF_FAILURES)
def test_each_counter_of_failures_sets_an_alert_off(metric: str, tmp_path: Path) -> None:
    alerts = alerts_on(metric)
    assert alerts, f"no alert reads {metric}"

    for alert in alerts:
        grown = firing(tmp_path, series_of(metric), "0+30x60", alert)
        assert grown.returncode == 0, grown.stdout + grown.stderr
        still = firing(tmp_path, series_of(metric), "7+0x60", alert)
        assert still.returncode != 0, f"{alert} fires though nothing happens"


@pytest.mark.parametrize(
    ("series", "values", "alert"),
    [
        (f"{PREFIX}sync_rounds_total", "5+0x60", "NodenannySyncerStopped"),
        (f"{PREFIX}loop_lag_seconds", "1+0x60", "NodenannyServerLoopLags"),
        (f'{PREFIX}brake_on{{brake="demotions"}}', "1+0x60", "NodenannyBrakeOn"),
        (f'{PREFIX}nodes{{state="STALLED"}}', "2+0x60", "NodenannyNodesStalled"),
        (f'{PREFIX}nodes{{state="UNREACHABLE"}}', "2+0x60", "NodenannyNodesNotReady"),
        (f'{PREFIX}nodes{{state="READY"}}', "100x50 20x10", "NodenannyFleetShrinks"),
        (f'{PREFIX}nodes{{state="READY"}}', "100+0x60", "NodenannyServerDown"),
    ],
)
def test_each_other_alert_fires_when_it_should(series: str, values: str, alert: str, tmp_path: Path) -> None:
    fired = firing(tmp_path, series, values, alert)

    assert fired.returncode == 0, fired.stdout + fired.stderr


def test_a_healthy_fleet_sets_nothing_off(tmp_path: Path) -> None:
    asked = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": f"{PREFIX}sync_rounds_total", "values": "0+4x60"},
                    {"series": f'{PREFIX}nodes{{state="READY"}}', "values": "100+0x60"},
                    {"series": f'{PREFIX}nodes{{state="STALLED"}}', "values": "0+0x60"},
                    {"series": f'{PREFIX}brake_on{{brake="demotions"}}', "values": "0+0x60"},
                    {"series": f'{PREFIX}probes_total{{result="ok"}}', "values": "0+400x60"},
                ],
                "promql_expr_test": [
                    {"expr": 'ALERTS{alertstate="firing"}', "eval_time": "60m", "exp_samples": []}
                ],
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(json.dumps(asked))

    quiet = promtool("test", "rules", str(path))

    assert quiet.returncode == 0, quiet.stdout + quiet.stderr
