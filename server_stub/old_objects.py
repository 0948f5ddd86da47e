"""The garbage collector, told that what is old stays: a pass over all objects of ten thousand nodes holds the loop.

Nodes' rows and facts are some hundred thousand objects that nearly all live for as long as the node, and none
of them is part of a cycle; yet each full pass visits them, for tens of milliseconds. Frozen, they are passed
over; what has died in a cycle meanwhile is found when all is thawed, collected and frozen anew, now and then.
Only for a process of its own: it changes the whole interpreter. https://docs.python.org/3/library/gc.html
"""

from __future__ import annotations

import asyncio
import gc
from typing import Final

FIRST_AFTER_S: Final = 30.0
"""The first round has read all rows by then."""
INTERVAL_S: Final = 3600.0


async def freeze_now_and_then() -> None:
    """Do so until cancelled; all is thawed again then."""
    try:
        await asyncio.sleep(FIRST_AFTER_S)
        while True:
            gc.unfreeze()
            gc.collect()
            gc.freeze()
            await asyncio.sleep(INTERVAL_S)
    finally:
        gc.unfreeze()
