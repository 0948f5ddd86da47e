"""Follows /dev/kmsg without ever waiting for it, and at a bounded rate however fast the kernel writes.

A readable device only arms a timer; the timer reads at most a batch. So a storm of lines costs a fixed
share of the loop, and what the ring overwrote meanwhile is counted. No device, or no right to read it: no
incidents, no error. Order of effects: open at the end (or after a known record), read, parse, deliver.

What lines mean is in `agent.core.kernel_log`. See Linux's ABI/testing/dev-kmsg.
"""

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable

from agent.core.kernel_log import KernelIncident, KernelRecord, find_incident, parse_record

_RECORD_LIMIT_BYTES = 8192  # a shorter buffer gets EINVAL, and the record is skipped
_BATCH = 256
_PAUSE_S = 0.5


class KernelLog:
    """Delivers the kernel log's incidents to a callback of the loop.

    Args:
        deliver: gets each incident; must not block.
        path: the device.
        resume_after: sequence of the last record seen in an earlier life; what came since is read again. None
            begins at the end.
    """

    def __init__(
        self,
        deliver: Callable[[KernelIncident], None],
        *,
        path: str = "/dev/kmsg",
        resume_after: int | None = None,
    ) -> None:
        self._deliver = deliver
        self._path = path
        self._fd: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.last_sequence = resume_after
        self.records_total = 0
        self.lost_total = 0  # overwritten in the ring before they were read

    def start(self) -> bool:
        """Opens the device and follows it; False where there is none to read."""
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        if self.last_sequence is None:
            with contextlib.suppress(OSError):  # a pipe may stand in for the device
                os.lseek(self._fd, 0, os.SEEK_END)
        asyncio.get_running_loop().add_reader(self._fd, self._on_readable)
        return True

    def close(self) -> None:
        """Stops following."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def _on_readable(self) -> None:
        if self._fd is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._fd)
        self._timer = loop.call_later(_PAUSE_S, self._read_batch)

    def _read_batch(self) -> None:
        for _ in range(_BATCH):
            if self._fd is None:  # closed by a delivery
                return
            try:
                raw = os.read(self._fd, _RECORD_LIMIT_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in {errno.EPIPE, errno.EINVAL}:  # overwritten, or too long: read on
                    continue
                self.close()
                return
            if not raw:
                self.close()
                return
            record = parse_record(raw)
            if record is not None:
                self._take(record)
        if self._fd is not None:
            asyncio.get_running_loop().add_reader(self._fd, self._on_readable)

    def _take(self, record: KernelRecord) -> None:
        if self.last_sequence is not None:
            if record.sequence <= self.last_sequence:
                return
            self.lost_total += record.sequence - self.last_sequence - 1
        self.last_sequence = record.sequence
        self.records_total += 1
        incident = find_incident(record)
        if incident is not None:
            self._deliver(incident)
