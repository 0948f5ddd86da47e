"""Which machine this is, for Hello: an identifier derived from the machine id, which itself stays here.

The node's id is the nanny's and comes with its status; so does the boot id, because link's unit hides /proc/sys.
machine-id(5).
"""

from __future__ import annotations

import hashlib
import hmac
import uuid

_PATHS = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_PURPOSE = b"nodenanny/machine"


def machine_id(paths: tuple[str, ...] = _PATHS) -> str:
    """Give this machine's identifier: a UUID made by HMAC-SHA256 with the machine id as key.

    The same for every program of the machine; a machine without an id shares one with all such machines.
    """
    found = "no-machine-id"
    for path in paths:
        try:
            with open(path, encoding="ascii") as file:
                found = file.read().strip() or found
            break
        except (OSError, ValueError):
            continue
    digest = hmac.new(found.encode(), _PURPOSE, hashlib.sha256).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))
