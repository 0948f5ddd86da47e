"""Metrics text of a sample."""

from agent.core.metrics_text import render_metrics

SAMPLE = {
    "duration_s": 0.5,
    "samples_total": 3,
    "stale": {"gpu": 12.0},
    "host": {
        "cpu": {"cores": 2, "busy_ratio": 0.25},
        "load": [1.0, 2.0, 3.0],
        "network": {"eth0": {"received_bytes_total": 9}},
        "disk_io": {"vda": {"io_time_s_total": 1.5}},
        "pressure": {"io": {"some_stall_s_total": 2.5}},
    },
    "disks": {"mounts": {'/with "quotes"\\': {"total_bytes": 10}, "/dead": {"unknown": "timeout"}}},
    "gpu": {
        "status": "ok",
        "overran": [],
        "devices": [
            {"uuid": "GPU-a", "index": 0, "state": "ok", "temperature_celsius": 40, "power_watts": None}
        ],
    },
    "probes": {
        "running": 0,
        "overrun": {"a": 1, "b": 2},
        "stuck": {},
        "started_total": 5,
        "overran_total": 3,
        "late_total": 0,
        "server_starts_total": 1,
        "is_server_up": True,
    },
}


def test_values_stand_under_their_names_in_base_units() -> None:
    lines = render_metrics(SAMPLE).splitlines()
    for line in [
        "nodenanny_sample_duration_seconds 0.5",
        'nodenanny_sample_stale_seconds{part="gpu"} 12.0',
        "nodenanny_host_cpu_busy_ratio 0.25",
        'nodenanny_host_load{window="15m"} 3.0',
        'nodenanny_host_network_received_bytes_total{interface="eth0"} 9',
        'nodenanny_host_disk_io_time_seconds_total{device="vda"} 1.5',
        'nodenanny_host_pressure_stall_seconds_total{resource="io",kind="some"} 2.5',
        'nodenanny_filesystem_total_bytes{mount="/with \\"quotes\\"\\\\"} 10',
        'nodenanny_filesystem_answers{mount="/dead"} 0',
        "nodenanny_gpu_driver_answers 1",
        'nodenanny_gpu_state{uuid="GPU-a",gpu="0",state="lost"} 0',
        'nodenanny_gpu_temperature_celsius{uuid="GPU-a",gpu="0"} 40',
        "nodenanny_probes_overrun 3",
        "nodenanny_probe_server_up 1",
    ]:
        assert line in lines


def test_each_family_has_one_head_and_its_series_follow_it() -> None:
    seen: list[str] = []
    for line in render_metrics(SAMPLE).splitlines():
        if line.startswith("# HELP "):
            seen.append(line.split()[2])
        elif not line.startswith("# TYPE "):
            assert line.startswith(seen[-1])
    assert len(seen) == len(set(seen))


def test_unknown_is_no_number() -> None:
    text = render_metrics(SAMPLE)
    assert "power_watts" not in text
    assert 'filesystem_total_bytes{mount="/dead"}' not in text


def test_an_empty_sample_is_an_empty_text() -> None:
    assert render_metrics({}) == ""
