"""Who may do what on the control socket: from the kernel's word about a peer to its role.

User names are looked up once, at the start: a name service that hangs (LDAP behind a dead network) must not hold
the loop at each connection. It knows nothing of requests. unix(7) SO_PEERCRED, getpwnam(3).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nanny.control import Role
from nanny.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nanny.config import NannyConfig
    from nanny.linux.peer_credentials import Credentials


class Roles:
    """The roles of one nanny's peers; ``link_pid`` gives the pid of the link that it started itself, 0 without."""

    def __init__(self, config: NannyConfig, link_pid: Callable[[], int]) -> None:
        self._link_pid = link_pid
        self._link_uid = None if config.link_user is None else _uid(config.link_user)
        self._operators = {0, os.geteuid(), *map(_uid, config.control_users)}
        self._observers = set(map(_uid, config.control_observers))

    def of(self, peer: Credentials) -> Role | None:
        """The peer's role, None for a stranger."""
        if (peer.pid != 0 and peer.pid == self._link_pid()) or peer.uid == self._link_uid:
            return Role.LINK
        if peer.uid in self._operators:
            return Role.OPERATOR
        return Role.OBSERVER if peer.uid in self._observers else None


def _uid(name: str) -> int | None:
    import pwd  # noqa: PLC0415  # only where users are configured

    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def group_id(name: str | None) -> int | None:
    """The id of a group; None for no name.

    Raises:
        HostError: there is no such group.
    """
    if name is None:
        return None
    import grp  # noqa: PLC0415  # only where a group is configured

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise HostError(f"group {name!r}", 0, "/etc/group", "the control socket has no such group") from None
