"""Following a kernel log, from a pipe in the device's place and from the real device."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.kernel_log import KernelIncident, KernelIncidentKind
from agent.telemetry.kernel_log import KernelLog

pytestmark = pytest.mark.usefixtures("leaves_nothing_behind")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[tuple[str, int]]:
    path = tmp_path / "kmsg"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    yield str(path), writer
    os.close(writer)


async def follow(
    path: str, writer: int, records: list[bytes], resume_after: int | None = None
) -> tuple[KernelLog, list[KernelIncident]]:
    found: list[KernelIncident] = []
    log = KernelLog(found.append, path=path, resume_after=resume_after)
    assert log.start()
    try:
        for record in records:
            seen = log.records_total
            os.write(writer, record)
            for _ in range(2000):  # a FIFO, unlike the device, keeps no record boundaries: one at a time
                await asyncio.sleep(0.01)
                if log.records_total > seen:
                    break
    finally:
        log.close()
    return log, found


async def test_incidents_are_delivered_and_gaps_counted(device: tuple[str, int]) -> None:
    path, writer = device
    records = [
        b"6,10,1000,-;all is well\n",
        b"3,15,2000000,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=7, GPU has fallen off the bus.\n",
    ]
    log, found = await follow(path, writer, records)
    assert [(i.kind, i.code, i.pci_bus_id, i.record.since_boot_s) for i in found] == [
        (KernelIncidentKind.XID, 79, "0000:3b:00", 2.0)
    ]
    assert (log.records_total, log.lost_total, log.last_sequence) == (2, 4, 15)


async def test_without_a_device_nothing_is_followed_and_nothing_fails() -> None:
    log = KernelLog(lambda _incident: None, path="/nonesuch/kmsg")
    assert not log.start()
    log.close()


@pytest.mark.root
async def test_the_real_device_is_read_to_its_end_from_a_known_record() -> None:
    if not os.access("/dev/kmsg", os.R_OK):
        pytest.skip("no readable /dev/kmsg")
    log = KernelLog(lambda _incident: None, resume_after=-1)
    assert log.start()
    try:
        for _ in range(3000):
            await asyncio.sleep(0.01)
            if log.records_total:
                break
        assert log.records_total > 0
    finally:
        log.close()
