"""One registry of all cases: pytest runs them as tests, ``python -m tests.faults`` as a campaign with a table.

A case is an ordinary test function with one argument, ``node``, marked by ``@fault``. Its number is that of the fault
in the list of faults that the campaign covers; pairs have the number "pair". Nothing is run here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.fault_node import FaultNode

    Run = Callable[..., None]

_PLACE = "_fault_case"


@dataclass(frozen=True, slots=True)
class Fault:
    """What a case is about.

    Attributes:
        number: of the fault ("6", "37"), or "pair".
        title: the fault in words.
        detected_by: who notices, and how.
        why_not: gives the reason why it can't be done on this machine; None: it can.
    """

    number: str
    title: str
    detected_by: str
    why_not: Callable[[], str | None]


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to run."""

    name: str
    fault: Fault
    run: Callable[[FaultNode], None]


def fault(
    number: str, title: str, *, by: str, why_not: Callable[[], str | None] = lambda: None
) -> Callable[[Run], Run]:
    """Make a test function a case of the campaign; it is skipped where `why_not` gives a reason.

    That is asked when the case is to run, not when its module is loaded: the answer may cost a mount.
    """

    def registered(run: Run) -> Run:
        setattr(run, _PLACE, Fault(number, title, by, why_not))
        marked: Run = pytest.mark.faults(run)
        return marked

    return registered


def fault_of(function: object) -> Fault | None:
    """What a test function is about; None if it is no case."""
    found: Fault | None = getattr(function, _PLACE, None)
    return found


def cases_in(module: object) -> Iterator[Case]:
    """The cases of a module, in its order; a parametrized one is several."""
    for name, function in vars(module).items():
        if callable(function) and hasattr(function, _PLACE):
            yield from _cases_of(name, function)


def _cases_of(name: str, function: Run) -> Iterator[Case]:
    about: Fault = getattr(function, _PLACE)
    short = name.removeprefix("test_")
    variants: list[tuple[str, dict[str, Any]]] = [("", {})]
    for mark in getattr(function, "pytestmark", []):
        if mark.name == "parametrize":
            variants = [
                (
                    f"{suffix}-{_label(each, mark, index)}" if suffix else _label(each, mark, index),
                    bound | _bound(each, mark),
                )
                for suffix, bound in variants
                for index, each in enumerate(mark.args[1])
            ]
    for suffix, bound in variants:
        full = f"{short}[{suffix}]" if suffix else short
        told = replace(about, title=f"{about.title}: {suffix}") if suffix else about
        yield Case(full, told, lambda node, bound=bound: function(node, **bound))  # type: ignore[misc]


def _names(mark: pytest.Mark) -> list[str]:
    names = mark.args[0]
    return [one.strip() for one in names.split(",")] if isinstance(names, str) else list(names)


def _values(each: Any, mark: pytest.Mark) -> list[Any]:
    values = each.values if hasattr(each, "values") and hasattr(each, "marks") else each
    names = _names(mark)
    if len(names) == 1:
        return list(values) if values is not each else [each]
    return list(values)


def _bound(each: Any, mark: pytest.Mark) -> dict[str, Any]:
    return dict(zip(_names(mark), _values(each, mark), strict=True))


def _label(each: Any, mark: pytest.Mark, index: int) -> str:
    ids = mark.kwargs.get("ids")
    if getattr(each, "id", None):
        return str(each.id)
    if isinstance(ids, list | tuple):
        return str(ids[index])
    return "-".join(str(getattr(value, "__name__", value)) for value in _values(each, mark))
