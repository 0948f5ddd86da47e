"""From the worker's spawn to its first /livez 200, to READY=1, and to its registration; and what it costs idle.

The listening socket is inherited, as from the nanny; SIGKILL between the rounds. Prints min, median, max.
"""

import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from tests.support.notify_listener import notify_listener

ROUNDS = 20
IDLE_S = 20.0


def spawn(listener: socket.socket, environ: dict[str, str]) -> "subprocess.Popen[bytes]":
    fd = listener.fileno()

    def place() -> None:
        os.dup2(fd, 3)
        os.environ["LISTEN_PID"] = str(os.getpid())

    program = shutil.which("node-agent", path=os.path.dirname(sys.executable))
    start = 'export LISTEN_PID=$$; exec "$0" "$@"'
    return subprocess.Popen(
        ["/bin/sh", "-c", start, program or "node-agent"],
        env=environ | {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "healthz"},
        pass_fds=(3,),
        preexec_fn=place,  # noqa: PLW1509  # no threads here
        stderr=subprocess.DEVNULL,
    )


def until_ok(port: int, path: str, timeout_s: float = 20.0) -> float:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as asking:
            asking.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            if asking.recv(64).startswith(b"HTTP/1.1 200"):
                return time.monotonic()
        time.sleep(0.002)
    raise AssertionError(f"{path} is not 200")


def shown(name: str, seconds: list[float]) -> None:
    ms = sorted(1000 * each for each in seconds)
    print(
        f"{name:32} min {ms[0]:7.1f}  median {statistics.median(ms):7.1f}  max {ms[-1]:7.1f} ms  n={len(ms)}"
    )


def memory(pid: int) -> tuple[float, float]:
    fields = {}
    with open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            words = line.split()
            if words[0] in {"Rss:", "Pss:"}:
                fields[words[0]] = int(words[1]) / 1024
    return fields["Rss:"], fields["Pss:"]


def cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(each) for each in file.read().split()]


def main() -> None:
    folder = tempfile.mkdtemp(prefix="ws")
    port_file = os.path.join(folder, "port")
    bin_dir = os.path.dirname(sys.executable)
    server = subprocess.Popen(
        [f"{bin_dir}/server-stub", "--port", "0", "--port-file", port_file, "--data-dir", folder],
        stderr=subprocess.DEVNULL,
    )
    try:
        while not os.path.exists(port_file):
            time.sleep(0.05)
        with open(port_file) as file:
            url = f"http://127.0.0.1:{file.read().strip()}"
        measure(url)
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


def measure(url: str) -> None:
    answered, ready, registered = [], [], []
    with notify_listener() as supervisor, socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        port = listener.getsockname()[1]
        environ = dict(os.environ) | {"NOTIFY_SOCKET": supervisor.address, "AGENT_SERVER_URL": url}
        for _ in range(ROUNDS):
            supervisor.skip()
            began_at = time.monotonic()
            worker = spawn(listener, environ)
            answered.append(until_ok(port, "/livez") - began_at)
            supervisor.hear_until(lambda beat: beat.ready)
            ready.append(time.monotonic() - began_at)
            registered.append(until_ok(port, "/readyz") - began_at)
            worker.kill()
            worker.wait()
        shown("spawn -> /livez 200", answered)
        shown("spawn -> READY=1", ready)
        shown("spawn -> /readyz 200 (registered)", registered)

        worker = spawn(listener, environ)
        until_ok(port, "/readyz")
        time.sleep(3)
        pids = [worker.pid, *children(worker.pid)]
        before = [cpu_s(pid) for pid in pids]
        time.sleep(IDLE_S)
        for name, pid, cpu in zip(("agent", "probe server"), pids, before, strict=False):
            rss, pss = memory(pid)
            used = 100 * (cpu_s(pid) - cpu) / IDLE_S
            print(f"{name:14} RSS {rss:5.1f} MiB  PSS {pss:5.1f} MiB  idle CPU {used:.2f} % of a core")
        began_at = time.monotonic()
        worker.terminate()
        status = worker.wait()
        shown("SIGTERM -> exit", [time.monotonic() - began_at])
        print("exit status", status)


if __name__ == "__main__":
    main()
