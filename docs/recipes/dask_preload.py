"""Preloaded into a Dask worker: beats that carry the age of its event loop.

    nanny run … -- dask worker --no-nanny --preload dask_preload.py tcp://scheduler:8786

Dask's own nanny takes a close that the scheduler sent for a goodbye and stays down; here nothing that the scheduler
says to the worker changes what is wanted of the node. Tasks run in threads beside the loop, so a long task is no
stall; one that holds the GIL is, as is a coroutine or `client.run` function that blocks.

https://distributed.dask.org/en/stable/customize-initialization.html
"""

from __future__ import annotations

import os
from typing import Any

from agent.vitals.config import claim_environ
from agent.vitals.snapshot import Snapshot
from agent.vitals.stall_stack import enable_stack_dumps
from agent.vitals.thread import Vitals, start_vitals

_vitals: list[Vitals] = []


async def dask_setup(worker: Any) -> None:
    """The worker is made, and about to join the scheduler."""
    # Here and not at import: Dask imports a preload file up to three times, and a vitals thread that watches no loop
    # would speak for one that hangs.
    enable_stack_dumps(os.environ)
    vitals = start_vitals(claim_environ(os.environ))
    vitals.watch_loop(worker.loop.asyncio_loop)
    vitals.publish(Snapshot(started=True, status_text=f"worker {worker.name} for {worker.scheduler.address}"))
    _vitals.append(vitals)


async def dask_teardown(_worker: Any) -> None:
    """The worker goes, whoever wants it; until it has gone it is still watched."""
    for vitals in _vitals:
        vitals.stopping()
