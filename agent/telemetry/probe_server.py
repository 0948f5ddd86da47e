"""The import-only fork server: a small single-threaded process that forks one disposable child per probe.

Started once, before the agent has threads. It imports what probes need and never calls it, so each child
starts from clean state in about a millisecond, and a hung driver call has only a child to take along. At a
child's deadline it gets SIGKILL; one that doesn't die of it (D state) is reported and left alone.

Talks JSON datagrams over an inherited SOCK_SEQPACKET pair; EOF there means that the agent is gone: children
are killed, the server exits. Doesn't know caps, keys or meaning: that is the pool's. See pidfd_open(2),
waitid(2), unix(7).
"""

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NoReturn

from agent.telemetry.probe_child import become_probe
from agent.telemetry.probe_contract import FRAME_LIMIT_BYTES, OUTPUT_LIMIT_BYTES, Probe

_READ_BYTES = 16_384  # of output a frame: JSON escaping at most doubles it for ASCII JSON
_UNKILLABLE_AFTER_S = 1.0


class _Child:
    """One forked probe, until it is reaped."""

    __slots__ = ("forked_at", "is_killed", "number", "output_bytes", "output_fd", "pid", "pidfd", "wake_at")

    def __init__(self, number: int, pid: int, output_fd: int, forked_at: float, kill_at: float) -> None:
        self.number = number
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.output_fd = output_fd
        self.output_bytes = 0
        self.forked_at = forked_at
        self.wake_at: float | None = kill_at  # next look at it: to kill it, then to see whether it died
        self.is_killed = False


class ProbeServer:
    """Serves fork requests until the channel's other end closes.

    Args:
        channel: this side of the SOCK_SEQPACKET pair.
        probes: the functions on offer, by name.
    """

    def __init__(self, channel: socket.socket, probes: Mapping[str, Probe]) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._probes = probes
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ, None)
        self._children: dict[int, _Child] = {}
        self._outbox: deque[bytes] = deque()  # bounded by the pool's cap on children and OUTPUT_LIMIT_BYTES

    def serve(self) -> NoReturn:
        """Runs until EOF, then leaves by `_exit` without waiting for anyone."""
        self._send({"event": "ready", "pid": os.getpid()})
        try:
            while True:
                for selected, mask in self._selector.select(self._patience_s()):
                    if selected.data is None:
                        self._turn_channel(mask)
                    elif selected.fd == selected.data.output_fd:
                        self._forward_output(selected.data)
                    else:
                        self._reap(selected.data)
                self._look_after_overdue(time.monotonic())
        except (EOFError, OSError):
            self._kill_all()
            os._exit(0)

    def _patience_s(self) -> float | None:
        wake_at = min((c.wake_at for c in self._children.values() if c.wake_at is not None), default=None)
        return None if wake_at is None else max(0.0, wake_at - time.monotonic())

    def _turn_channel(self, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._flush()
        if not mask & selectors.EVENT_READ:
            return
        frame = self._channel.recv(FRAME_LIMIT_BYTES)
        if not frame:
            raise EOFError
        self._fork(json.loads(frame))

    def _fork(self, request: Mapping[str, Any]) -> None:
        number: int = request["id"]
        probe = self._probes.get(request["probe"])
        if probe is None:
            self._send({"event": "refused", "id": number, "detail": f"no probe named {request['probe']}"})
            return
        try:
            read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            self._send({"event": "refused", "id": number, "detail": f"pipe: {error.strerror}"})
            return
        server_pid = os.getpid()
        forked_at = time.monotonic()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(read_fd)
            os.close(write_fd)
            self._send({"event": "refused", "id": number, "detail": f"fork: {error.strerror}"})
            return
        if pid == 0:
            become_probe(probe, request["args"], write_fd, server_pid)
        os.close(write_fd)
        os.set_blocking(read_fd, False)
        child = _Child(number, pid, read_fd, forked_at, forked_at + request["kill_after_s"])
        self._children[number] = child
        self._selector.register(read_fd, selectors.EVENT_READ, child)
        self._selector.register(child.pidfd, selectors.EVENT_READ, child)
        self._send({"event": "started", "id": number, "pid": pid})

    def _forward_output(self, child: _Child) -> bool:
        """Passes one chunk on; False when there is none left to expect now."""
        if child.output_fd < 0:
            return False
        try:
            chunk = os.read(child.output_fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            self._close_output(child)
            return False
        child.output_bytes += len(chunk)
        if child.output_bytes > 2 * OUTPUT_LIMIT_BYTES:  # the child bounds itself; this is for a broken one
            self._kill(child)
            self._close_output(child)
            return False
        lasted_s = time.monotonic() - child.forked_at
        text = chunk.decode("ascii", "replace")
        self._send({"event": "output", "id": child.number, "text": text, "lasted_s": lasted_s})
        return True

    def _close_output(self, child: _Child) -> None:
        if child.output_fd >= 0:
            self._selector.unregister(child.output_fd)
            os.close(child.output_fd)
            child.output_fd = -1

    def _reap(self, child: _Child) -> None:
        if child.number not in self._children:  # both of its descriptors were ready in one turn
            return
        ended = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG)
        if ended is None:
            return
        while self._forward_output(child):  # what it wrote before its end is in the pipe
            pass
        self._close_output(child)
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        del self._children[child.number]
        status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        lasted_s = time.monotonic() - child.forked_at
        self._send({"event": "exited", "id": child.number, "status": status, "lasted_s": lasted_s})

    def _look_after_overdue(self, now: float) -> None:
        for child in list(self._children.values()):
            if child.wake_at is None or child.wake_at > now:
                continue
            if child.is_killed:
                child.wake_at = None  # nothing more can be done for it; its pidfd tells if it ever ends
                self._send({"event": "stuck", "id": child.number, "state": _task_state(child.pid)})
            else:
                self._kill(child)
                child.wake_at = now + _UNKILLABLE_AFTER_S

    def _kill(self, child: _Child) -> None:
        # SIGTERM first would change nothing: to the kernel an unhandled fatal signal is SIGKILL.
        child.is_killed = True
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)

    def _kill_all(self) -> None:
        for child in self._children.values():
            try:
                self._kill(child)
            except OSError:
                continue

    def _send(self, event: Mapping[str, Any]) -> None:
        self._outbox.append(json.dumps(event).encode())
        self._flush()

    def _flush(self) -> None:
        try:
            while self._outbox:
                self._channel.send(self._outbox[0])
                self._outbox.popleft()
        except BlockingIOError:  # the agent's loop is busy; it reads later
            self._selector.modify(self._channel, selectors.EVENT_READ | selectors.EVENT_WRITE, None)
            return
        self._selector.modify(self._channel, selectors.EVENT_READ, None)


def _task_state(pid: int) -> str:
    """The state letter of /proc/<pid>/stat (proc_pid_stat(5)), or `?`."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - pathlib would double this process's imports
            return stat.read(4096).rpartition(b")")[2].split()[0].decode("ascii")
    except (OSError, IndexError):
        return "?"


def main(channel_fd: int, table: str) -> NoReturn:
    """Imports the table of probes and serves it on the inherited channel.

    Args:
        channel_fd: the inherited SOCK_SEQPACKET socket.
        table: module whose `PROBES` maps names to functions.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = socket.socket(fileno=channel_fd)
    channel.set_inheritable(False)
    probes = importlib.import_module(table).PROBES
    gc.collect()
    gc.freeze()  # children don't touch, so don't copy, what was imported
    ProbeServer(channel, probes).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
