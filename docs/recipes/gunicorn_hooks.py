"""gunicorn's configuration file, with vitals in its worker: beats that carry the age of the worker's event loop.

    nanny run --notify-access all --port 8000 … -- gunicorn --config gunicorn_hooks.py --worker-class asgi app:app

The supervised process is gunicorn's *arbiter*: it takes SIGTERM and ends its worker in order. What can hang is the
*worker's* loop, so the worker beats (hence ``--notify-access all``), and the whole of gunicorn is replaced when it
stands still. One worker: of several each would beat, and those that are well would speak for the one that hangs.
Never start vitals in the arbiter: a thread there would beat whatever its workers do.

https://docs.gunicorn.org/en/stable/settings.html#server-hooks
"""

from __future__ import annotations

import os
from typing import Any

from agent.vitals.config import claim_environ
from agent.vitals.snapshot import Snapshot
from agent.vitals.thread import Vitals, start_vitals

workers = 1
control_socket_disable = True  # else all gunicorns of one user would share one; newer ones only
timeout = 0  # one judge: with gunicorn's own as well, whoever is first decides what evidence there is

_vitals: list[Vitals] = []


def post_fork(_server: Any, _worker: Any) -> None:
    """In the new worker, before the application is loaded: from here on it beats."""
    # The arbiter has taken over the listening socket; without LISTEN_PID vitals let it be.
    os.environ.pop("LISTEN_PID", None)
    # A forked worker keeps the variables that were meant for its arbiter; the beats are the worker's to send.
    os.environ.pop("WATCHDOG_PID", None)
    _vitals[:] = [start_vitals(claim_environ(os.environ))]


def post_worker_init(worker: Any) -> None:
    """The application is loaded, the loop is about to turn: hold it to turning, and be ready when it does."""
    loop = worker.loop  # of the worker classes with an asyncio loop
    vitals = _vitals[0]
    vitals.watch_loop(loop)
    loop.call_soon(vitals.publish, Snapshot(started=True, status_text="serving"))


def worker_exit(_server: Any, _worker: Any) -> None:
    """In the worker, on its way out."""
    for vitals in _vitals:
        vitals.stop()
