"""A local operator with `nannyctl`: asks on the control socket, and does not care who else does.

Its orders pass neither the server's allow-list nor its budget, and nobody acknowledges their outcomes.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Final

from nanny.control import Role


class Operator:
    """One call of `nannyctl`."""

    role: Final = Role.OPERATOR
    subscribed: Final = False
    peer: Final = SimpleNamespace(uid=0)

    def answered(self, request_id: int, result: dict[str, Any]) -> None:
        """He reads it."""

    def refused(self, request_id: int, error: str, *, is_passing: bool) -> None:
        """He reads it."""

    def pushed(self, message: dict[str, Any]) -> None:
        """He reads it."""
