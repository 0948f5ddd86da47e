"""The first lines of the supervising process: keep out of memory what it never uses.

``dataclasses`` imports ``inspect`` (which brings ast, dis and tokenize, 1 MiB in all) only to write the docstrings
of classes that have none; all of ours have one. So a stand-in takes its place, which loads the real module if
anything ever asks it for something. importlib.util.LazyLoader can't: the import statement itself wakes it.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any, NoReturn


class NotYetLoaded(ModuleType):
    """Stands for a module until the first attribute is asked for."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def main() -> NoReturn:
    """Become the nanny."""
    sys.modules.setdefault("inspect", NotYetLoaded("inspect"))

    from nanny.main import main as supervise  # noqa: PLC0415  # after the line above, or it is of no use

    supervise()
