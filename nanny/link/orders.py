"""Orders on their way from the server to the nanny: in their order, each id once, their time running.

An order stays until the nanny has taken or refused it; whether it has expired is the nanny's to say, since only its
ledger knows what became of an id. So nothing is ever dropped here: when there is no room, the caller reads no
further. An order whose time is over and that the nanny puts off lets the others pass: it will have no effect any
more. Pure; instants are CLOCK_BOOTTIME seconds, because a time to live runs on while the machine sleeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from nanny.protocol.messages import CommandOrder

ORDERS_LIMIT: Final = 256
_TEXT_LIMIT: Final = 500
"""Of reason and actor, as the nanny takes them."""
_TIME_TO_LIVE_LIMIT_S: Final = 86400.0
_OURS: Final = frozenset(
    {"id", "do", "command_id", "kind", "time_to_live_s", "reason", "actor", "target", "push"}
)


@dataclass(frozen=True, slots=True)
class HeldOrder:
    """An order that no nanny has answered yet."""

    order: CommandOrder
    expires_at: float

    def request(self, now: float) -> dict[str, Any]:
        """The fields of the nanny's `command` request; the time to live is what is left, below 0 once it is over."""
        order = self.order
        left_s = max(-_TIME_TO_LIVE_LIMIT_S, min(self.expires_at - now, _TIME_TO_LIVE_LIMIT_S))
        return {
            **{name: value for name, value in order.parameters.items() if name not in _OURS},
            "command_id": order.command_id,
            "kind": order.kind,
            "time_to_live_s": round(left_s, 3),
            "reason": _printable(order.reason, "no reason given"),
            "actor": _printable(order.actor, "the server"),
            "target": None if order.target is None else str(order.target),
        }


class HeldOrders:
    """A bounded queue of orders, oldest first."""

    def __init__(self, limit: int = ORDERS_LIMIT) -> None:
        self._limit = limit
        self._held: dict[str, HeldOrder] = {}

    def __len__(self) -> int:
        return len(self._held)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another one."""
        return len(self._held) >= self._limit

    def put(self, order: CommandOrder, now: float) -> None:
        """Take an order in; one that is held already stays where it is."""
        assert not self.is_full or order.command_id in self._held, "read on though there was no room"
        self._held.setdefault(order.command_id, HeldOrder(order, now + order.time_to_live_s))

    def first(self) -> HeldOrder | None:
        """The order that is next."""
        return next(iter(self._held.values()), None)

    def put_off(self, command_id: str, now: float) -> None:
        """The nanny took it not yet: it stays first, unless its time is over."""
        held = self._held.get(command_id)
        if held is not None and held.expires_at <= now:
            del self._held[command_id]
            self._held[command_id] = held

    def remove(self, command_id: str) -> None:
        """The nanny has answered."""
        self._held.pop(command_id, None)


def _printable(text: str, otherwise: str) -> str:
    """The text as the nanny takes it: printable, not empty, not too long."""
    plain = "".join(one if one.isprintable() else " " for one in text).strip()
    return plain[:_TEXT_LIMIT] or otherwise
