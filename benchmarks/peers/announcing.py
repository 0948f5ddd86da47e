"""What gunicorn and Dask load so that their workers announce themselves as the tiny worker does.

gunicorn takes it as its configuration file and as its application, Dask as a `--preload` module. Where to is told by
the environment variable BENCHMARK_ANNOUNCE.
"""

import os
import socket
from collections.abc import Callable, Iterable
from typing import Any


def announce() -> None:
    """Say that this process serves from now on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller:
        try:
            teller.sendto(str(os.getpid()).encode(), os.environ["BENCHMARK_ANNOUNCE"])
        except OSError:
            return


def post_worker_init(_worker: Any) -> None:
    """The hook of gunicorn in the worker: it is about to accept."""
    announce()


def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The application for gunicorn."""
    pid = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(pid)))])
    return [pid]


async def dask_setup(_worker: Any) -> None:
    """The hook of Dask in the worker: it listens."""
    announce()
