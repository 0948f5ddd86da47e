"""The worker that every supervisor gets: takes a port, announces itself, answers with its pid, beats if asked.

    python -I -S tiny_worker.py PORT ANNOUNCE

Only the standard library's smallest part, so that the supervisor is measured and not the worker's imports.
"""

import os
import select
import socket
import sys

PORT, ANNOUNCE = int(sys.argv[1]), sys.argv[2]
BEAT_INTERVAL_S = 0.5


def beat(teller: socket.socket, word: bytes, supervisor: str) -> None:
    """Say that we live; a supervisor that is away misses it."""
    try:
        teller.sendto(word, supervisor)
    except OSError:
        return


def answer(client: socket.socket, pid: bytes) -> None:
    """Answer whatever was asked."""
    client.settimeout(1)
    try:
        client.recv(4096)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(pid), pid))
    except OSError:
        return
    finally:
        client.close()


def main() -> None:
    """Serve for ever."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        listener = socket.socket(fileno=3)
    else:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", PORT))
        listener.listen(128)
    listener.setblocking(False)
    pid = str(os.getpid()).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller:
        try:
            teller.sendto(pid, ANNOUNCE)
        except OSError:
            return  # nobody measures any more
        supervisor = os.environ.get("NOTIFY_SOCKET")
        word = b"READY=1\nWATCHDOG=1"
        while True:
            if supervisor:
                beat(teller, word, supervisor)
                word = b"WATCHDOG=1"
            if select.select([listener], [], [], BEAT_INTERVAL_S)[0]:
                try:
                    client, _ = listener.accept()
                except OSError:
                    continue
                answer(client, pid)


if __name__ == "__main__":
    main()
