"""Who this node and this life of the worker are: from the nanny where there is one, else derived.

The nanny passes the node's name, which wins: its link and its worker must speak for the same node. Ids are
derived from machine id and name by the rule that nanny and link use as well, so a node keeps its row at the
server whether or not it is supervised; the machine id itself stays here. machine-id(5), proc_sys_kernel(5).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import uuid
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nanny.common.identifiers import check_identifier
from nanny.protocol.errors import ProtocolViolation
from nanny.protocol.incarnation import Incarnation
from nanny.protocol.messages import PROTOCOL_VERSIONS, Hello, Role

if TYPE_CHECKING:
    from collections.abc import Mapping

_MACHINE_ID_FILES: Final = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_BOOT_ID_FILE: Final = "/proc/sys/kernel/random/boot_id"
_NO_MACHINE_ID: Final = "no-machine-id"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a Hello says about us."""

    node_id: str
    node_name: str
    machine_id: str
    boot_id: str
    software_version: str
    incarnation: Incarnation | None

    def in_life(self, incarnation: str | None) -> Identity:
        """The same node in a life of its worker; one that cannot be read counts as none."""
        return replace(self, incarnation=_incarnation(incarnation))

    def hello(self) -> Hello:
        """The first message of a connection; the session fills in what is its own."""
        return Hello(
            role=Role.WORKER,
            protocol_versions=PROTOCOL_VERSIONS,
            node_id=self.node_id,
            node_name=self.node_name,
            machine_id=self.machine_id,
            boot_id=self.boot_id,
            software_version=self.software_version,
            incarnation=self.incarnation,
        )


def find_identity(configured_name: str, environ: Mapping[str, str], incarnation: str | None) -> Identity:
    """The identity of this process.

    Args:
        configured_name: ours by configuration; empty for none.
        environ: may hold NANNY_NODE_NAME.
        incarnation: as the nanny passed it; one that cannot be read counts as none.
    """
    name = environ.get("NANNY_NODE_NAME", "") or configured_name or os.uname().nodename or "localhost"
    machine_id = _first_line(*_MACHINE_ID_FILES) or _NO_MACHINE_ID
    return Identity(
        node_id=_derived(machine_id, f"nodenanny/{name}"),
        node_name=name,
        machine_id=_derived(machine_id, "nodenanny/machine"),
        boot_id=_identifier(_first_line(_BOOT_ID_FILE)) or "unknown",
        software_version=installed_version(),
        incarnation=_incarnation(incarnation),
    )


def installed_version() -> str:
    """The version of the installed package."""
    try:
        return version("nodenanny")
    except PackageNotFoundError:
        return "0+source"


def _derived(machine_id: str, purpose: str) -> str:
    """A UUID made by HMAC-SHA256 with the machine id as key, as machine-id(5) recommends."""
    digest = hmac.new(machine_id.encode(), purpose.encode(), hashlib.sha256).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def _incarnation(text: str | None) -> Incarnation | None:
    if text is None:
        return None
    try:
        return Incarnation.parse(text)
    except ProtocolViolation:
        return None


def _identifier(text: str) -> str:
    try:
        return check_identifier(text, 128)
    except (ValueError, IndexError):
        return ""


def _first_line(*paths: str) -> str:
    for path in paths:
        try:
            text = Path(path).read_text("ascii").strip()
        except (OSError, ValueError):
            continue
        if text:
            return text
    return ""
