"""Errors whose fault is the peer's.

A ``ProtocolViolation`` is counted, logged at a bounded rate and refused; it never ends the process that meets
it. Knows nothing of transports.
"""

from __future__ import annotations


class ProtocolViolation(Exception):  # noqa: N818  # says whose fault it is
    """A peer sent something outside the contract: the message says what and what would be right."""
