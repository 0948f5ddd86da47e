"""What is read of a server's metrics, whichever kind they are."""

import pytest

from server_stub.fleet.figures import by_label, parse, per_second, quantiles_ms, round_seconds, total

TEXT = """
# HELP nodenanny_server_nodes Nodes, by state.
# TYPE nodenanny_server_nodes gauge
nodenanny_server_nodes{state="READY"} 57
nodenanny_server_nodes{state="UNREACHABLE"} 3.0
nodenanny_server_probes_total{result="ok",how="a \\"kept\\" one"} 1e3
nodenanny_server_probes_total{how="fresh",result="ok"} 5
nodenanny_server_sync_round_duration_seconds_sum 12.5
nodenanny_server_sync_round_duration_seconds_count 50 1700000000
neither name nor value
python_info{version="3.11"} one
"""


def test_samples_are_read_by_name_and_label() -> None:
    samples = parse(TEXT)
    assert by_label(samples, "nodes", "state") == {"READY": 57, "UNREACHABLE": 3}
    assert by_label(samples, "probes_total", "result") == {"ok": 1005}
    assert total(samples, "nodes") == 60
    assert total(samples, "no_such_thing") is None


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ("", "sync_round_seconds 0.25", 0.25),
        ("sync_round_duration_seconds_sum 10\nsync_round_duration_seconds_count 40", TEXT, 0.25),
        (TEXT, TEXT, None),
        ("", "", None),
    ],
)
def test_a_rounds_time_is_the_last_or_the_mean_since_before(
    before: str, now: str, expected: float | None
) -> None:
    def named(text: str) -> str:
        return "\n".join(
            f"nodenanny_server_{line}" if line.startswith("sync_") else line for line in text.splitlines()
        )

    assert round_seconds(parse(named(now)), parse(named(before))) == expected


def test_rates_and_quantiles() -> None:
    assert per_second({"ok": 30, "timeout": 2}, {"ok": 10, "timeout": 2}, 2.0) == {"ok": 10}
    assert quantiles_ms([]) == (None, None)
    assert quantiles_ms([0.001] * 98 + [0.5, 0.5]) == (1.0, 500.0)
