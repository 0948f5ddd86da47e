"""Kernel log records read and sorted: pure text in, facts out.

A GPU's trouble is often written here first, and only here: Xid and SXid lines of the NVIDIA driver, hung
tasks, the OOM killer. Lines may be cut, rate-limited or carry a number that nobody knows yet: what can't be
read of an incident is None, the incident stays. See Linux's ABI/testing/dev-kmsg and NVIDIA's Xid
catalogue.

Knows no file, no clock, no policy: what an Xid means for a node is a table of its own.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

_TEXT_LIMIT = 512


class KernelIncidentKind(StrEnum):
    """What a kernel log line tells."""

    XID = "xid"
    SXID = "sxid"
    GPU_OFF_BUS = "gpu-off-bus"
    HUNG_TASK = "hung-task"
    OOM_KILL = "oom-kill"


@dataclass(frozen=True, slots=True)
class KernelRecord:
    """One record of /dev/kmsg.

    Attributes:
        priority: 0 (emergency) to 7 (debug).
        sequence: the kernel's number; a gap means that records were overwritten unread.
        since_boot_s: the kernel's own clock.
        text: the message, escapes resolved, at most 512 characters.
    """

    priority: int
    sequence: int
    since_boot_s: float
    text: str


@dataclass(frozen=True, slots=True)
class KernelIncident:
    """An incident found in a record.

    Attributes:
        kind: what it is.
        record: the line.
        code: number of an Xid or SXid; None if it is cut off.
        pci_bus_id: the device, as the driver writes it (`0000:3b:00`).
        pid: the task concerned.
        task: its name.
    """

    kind: KernelIncidentKind
    record: KernelRecord
    code: int | None = None
    pci_bus_id: str | None = None
    pid: int | None = None
    task: str | None = None


_PCI = r"(?:PCI:)?(?P<pci>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}(?:\.[0-7])?)"
# The driver's line: NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus.
_XID = re.compile(r"NVRM: Xid(?: \(" + _PCI + r"\))?(?:: (?P<code>\d+)\b)?")
# A switch's line: nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 20034, Fatal, …
_SXID = re.compile(r"SXid(?: \(" + _PCI + r"\))?(?:: (?P<code>\d+)\b)?")
# At probe time there is no Xid at all: "NVRM: The NVIDIA GPU 0000:3b:00.0 ... fallen off the bus"
_OFF_BUS = re.compile(
    r"(?:NVRM|nvidia).*?" + _PCI + r".*fallen off the bus|NVRM.*fallen off the bus", re.DOTALL
)
_XID_PID = re.compile(r"\bpid='?(?P<pid>\d+)")
_XID_NAME = re.compile(r"\bname=(?P<task>[^,\s]+)")
_HUNG = re.compile(r"task (?P<task>.{1,64}):(?P<pid>\d+) blocked for more than \d+ seconds")
_OOM = re.compile(r"[Kk]illed process (?P<pid>\d+) \((?P<task>[^)]{0,64})\)")
_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")


def parse_record(raw: bytes) -> KernelRecord | None:
    """Gives the record that one read of /dev/kmsg returned; None if it is not one.

    Args:
        raw: `priority,sequence,microseconds,flags[,…];text`, with continuation lines that are ignored.
    """
    head, separator, rest = raw.partition(b";")
    fields = head.split(b",")
    if not separator or len(fields) < 3:
        return None
    try:
        priority, sequence, microseconds = (int(field) for field in fields[:3])
        since_boot_s = microseconds / 1_000_000
    except (ValueError, OverflowError):
        return None
    text = rest.partition(b"\n")[0].decode("utf-8", "replace")
    text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)[:_TEXT_LIMIT]
    return KernelRecord(priority & 7, sequence, since_boot_s, text)


def find_incident(record: KernelRecord) -> KernelIncident | None:
    """Gives the incident that the record tells of, or None for the many that tell of none."""
    text = record.text
    is_drivers = "NVRM" in text or "nvidia" in text  # cheap before the patterns: most lines are others'
    if is_drivers and (incident := _driver_incident(record)) is not None:
        return incident
    if match := _HUNG.search(text):
        return KernelIncident(
            KernelIncidentKind.HUNG_TASK, record, pid=int(match["pid"]), task=match["task"].strip()
        )
    if match := _OOM.search(text):
        return KernelIncident(KernelIncidentKind.OOM_KILL, record, pid=int(match["pid"]), task=match["task"])
    return None


def _driver_incident(record: KernelRecord) -> KernelIncident | None:
    for kind, pattern in ((KernelIncidentKind.SXID, _SXID), (KernelIncidentKind.XID, _XID)):
        if match := pattern.search(record.text):
            code, pid = match["code"], _XID_PID.search(record.text)
            name = _XID_NAME.search(record.text)
            return KernelIncident(
                kind,
                record,
                code=None if code is None else int(code),
                pci_bus_id=match["pci"],
                pid=None if pid is None else int(pid["pid"]),
                task=None if name is None else name["task"],
            )
    if match := _OFF_BUS.search(record.text):
        return KernelIncident(KernelIncidentKind.GPU_OFF_BUS, record, pci_bus_id=match["pci"])
    return None
