"""Kernel log lines as the driver and the kernel write them."""

import pytest

from agent.core.kernel_log import KernelIncidentKind, KernelRecord, find_incident, parse_record

XID, SXID, OFF_BUS = KernelIncidentKind.XID, KernelIncidentKind.SXID, KernelIncidentKind.GPU_OFF_BUS
HUNG, OOM = KernelIncidentKind.HUNG_TASK, KernelIncidentKind.OOM_KILL


def test_a_record_has_priority_sequence_time_and_text() -> None:
    raw = b"30,339,5140900,-;NET: Registered protocol\\x20family\n SUBSYSTEM=acpi\n"
    assert parse_record(raw) == KernelRecord(6, 339, 5.1409, "NET: Registered protocol family")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b";",
        b"no record",
        b"1,2;x",
        b"a,b,c,-;x",
        b"\xff\xfe,1,2;x",
        b"1,2," + b"9" * 400 + b",-;x",
        b"1,2," + b"9" * 5000 + b",-;x",
    ],
)
def test_what_is_no_record_is_none(raw: bytes) -> None:
    assert parse_record(raw) is None


def test_broken_text_is_kept_as_far_as_it_goes_and_bounded() -> None:
    record = parse_record(b"6,1,0,-;\xff\xfe" + b"x" * 9000)
    assert record is not None
    assert len(record.text) == 512


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus.",
            (XID, 79, "0000:3b:00", 1234, "python"),
        ),
        (
            "NVRM: Xid (PCI:0000:3b:00): 31, pid='<unknown>', name=<unknown>, Ch 0000001e",
            (XID, 31, "0000:3b:00", None, "<unknown>"),
        ),
        ("NVRM: Xid (PCI:0000:3b:00): 4711, something new", (XID, 4711, "0000:3b:00", None, None)),
        ("NVRM: Xid (PCI:0000:3b:0", (XID, None, None, None, None)),
        ("NVRM: Xid (PCI:0000:3b:00): ", (XID, None, "0000:3b:00", None, None)),
        (
            "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
            (SXID, 20034, "0000:c1:00.0", None, None),
        ),
        (
            "NVRM: The NVIDIA GPU 0000:3b:00.0 (PCI ID: 10de:2330) has fallen off the bus and is not responding",
            (OFF_BUS, None, "0000:3b:00.0", None, None),
        ),
        (
            "INFO: task nvidia-smi:4242 blocked for more than 120 seconds.",
            (HUNG, None, None, 4242, "nvidia-smi"),
        ),
        ("task kworker/u8:3:99 blocked for more than 241 seconds", (HUNG, None, None, 99, "kworker/u8:3")),
        ("Out of memory: Killed process 77 (python3) total-vm:1kB", (OOM, None, None, 77, "python3")),
        (
            "Memory cgroup out of memory: Killed process 78 (python3) total-vm:1kB",
            (OOM, None, None, 78, "python3"),
        ),
    ],
)
def test_each_incident_is_found_as_far_as_its_line_goes(text: str, expected: tuple[object, ...]) -> None:
    incident = find_incident(KernelRecord(3, 1, 0.0, text))
    assert incident is not None
    assert (incident.kind, incident.code, incident.pci_bus_id, incident.pid, incident.task) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "eth0: link up",
        "nvidia: loading out-of-tree module taints kernel.",
        "NVRM: loading NVIDIA UNIX driver",
        "a task blocked",
    ],
)
def test_other_lines_tell_of_nothing(text: str) -> None:
    assert find_incident(KernelRecord(6, 1, 0.0, text)) is None
