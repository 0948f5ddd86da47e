"""Which node is meant, and how it is reached: directories from options and environment, clients from them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from nanny.control_client import ANSWER_TIMEOUT_S, ControlClient, ControlError
from nanny.ctl.arguments import DEFAULT_RUNTIME_DIR, DEFAULT_STATE_DIR

if TYPE_CHECKING:
    import argparse


class Node:
    """The node of this call."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.runtime_dir = str(
            options.runtime_dir or os.environ.get("NANNY_RUNTIME_DIR") or DEFAULT_RUNTIME_DIR
        )
        self._state_dir = options.state_dir or os.environ.get("NANNY_STATE_DIR")
        self.answer_timeout_s = float(options.answer_timeout or ANSWER_TIMEOUT_S)
        self._is_named = bool(options.runtime_dir)

    @property
    def flag(self) -> str:
        """What makes a copied command reach the same node; empty where it does so anyway."""
        if not self._is_named:
            return ""
        from shlex import quote  # noqa: PLC0415  # only for advice

        return f"--runtime-dir {quote(self.runtime_dir)}"

    @property
    def control_path(self) -> str:
        """The control socket."""
        return os.path.join(self.runtime_dir, "control.sock")

    def connect(self, timeout_s: float | None = None) -> ControlClient:
        """A connection.

        Raises:
            ControlError: as ControlClient gives it.
        """
        return ControlClient(self.control_path, self.answer_timeout_s if timeout_s is None else timeout_s)

    def status(self) -> dict[str, Any]:
        """The status, asked now.

        Raises:
            ControlError: as ControlClient gives it.
        """
        with self.connect() as client:
            return client.request("status")

    def state_dir(self, status: dict[str, Any] | None = None) -> str:
        """Where journal and evidence are: as told, else as the nanny says, else the default."""
        if self._state_dir:
            return str(self._state_dir)
        try:
            told = (self.status() if status is None else status).get("state_dir")
        except ControlError:
            told = None
        return str(told or DEFAULT_STATE_DIR)
