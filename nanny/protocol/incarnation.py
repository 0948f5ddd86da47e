"""The name of one life of the worker.

An incarnation is (epoch, number): the epoch is minted with a new journal (a UUIDv7, so later epochs sort
later), numbers grow by one within it and are never reused. Stands apart from the messages so that the nanny's
process can name incarnations without loading the wire contract.
"""

from __future__ import annotations

from dataclasses import dataclass

from nanny.protocol.errors import ProtocolViolation

_EPOCH_LIMIT = 64
_NUMBER_LIMIT = 2**53


@dataclass(frozen=True, slots=True, order=True)
class Incarnation:
    """One life of the worker; ordered, a later one is greater."""

    epoch: str
    number: int
    """From 1, within the epoch."""

    def __str__(self) -> str:
        return f"{self.epoch}/{self.number}"

    @classmethod
    def parse(cls, text: str) -> Incarnation:
        """Read ``epoch/number``.

        Raises:
            ProtocolViolation: the text has another shape.
        """
        epoch, slash, number = text.rpartition("/")
        if not slash or not 0 < len(epoch) <= _EPOCH_LIMIT or not number.isdecimal() or not number.isascii():
            raise ProtocolViolation(f"incarnation {text[:80]!r} is not of the form epoch/number")
        if len(number) > len(str(_NUMBER_LIMIT)) or int(number) > _NUMBER_LIMIT:
            raise ProtocolViolation(f"incarnation number {number[:20]} is over 2**53")
        return cls(epoch, int(number))
