"""An order: sent with an id of its own, followed to its one outcome, told as an exit code.

The id makes it safe to be stubborn: when the nanny goes away in between (a crash, an upgrade), the same order is
sent again and has one effect in all. Its time to live counts from when it was given, not from each try.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

from nanny.common.identifiers import is_uuid7, uuid7
from nanny.common.quantities import duration
from nanny.control_client import ControlError, NannyUnreachable, TryAgain
from nanny.ctl import exit_codes
from nanny.ctl.status_text import short
from nanny.ctl.terminal import visible

if TYPE_CHECKING:
    import argparse

    from nanny.control_client import ControlClient
    from nanny.ctl.node import Node
    from nanny.ctl.terminal import Terminal

OUTCOME_TIMEOUT_S: Final = 180.0
TIME_TO_LIVE_S: Final = 60.0
_RETRY_S: Final = 0.1
_TICK_S: Final = 1.0
_REMINDER_S: Final = 15.0
_GOOD: Final = frozenset({"done", "already-satisfied"})
_KINDS: Final = {"evidence": "collect-evidence"}


class UsageError(ControlError):
    """The command line is wrong in a way that only showed later."""


def give(options: argparse.Namespace, node: Node, terminal: Terminal) -> int:
    """Give the order of this call and, unless told otherwise, wait for its outcome."""
    command_id = options.command_id or uuid7(int(time.time() * 1000), os.urandom(10))
    if not is_uuid7(command_id):
        raise UsageError(f"--id {command_id[:60]!r} is no UUIDv7", "leave it out: one is made")
    order: dict[str, Any] = {
        "command_id": command_id,
        "kind": _KINDS.get(options.verb, options.verb),
        "reason": options.reason or "no reason given",
        "actor": login_name(),
    }
    if options.verb == "hold":
        order["for_s"] = options.for_s
    if options.verb == "restart":
        target = _target(options.target, node)
        if target is not None:
            order["target"] = target
    return _Following(node, terminal, order, options).follow()


def login_name() -> str:
    """Who is ordering: the name before sudo, else the user's; the nanny adds the uid that the kernel tells."""
    name = os.environ.get("SUDO_USER") if os.geteuid() == 0 else None
    if not name:
        import pwd  # noqa: PLC0415  # only for orders

        try:
            name = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            name = f"uid-{os.geteuid()}"
    return visible(name)[:100] or "unknown"


def _target(text: str, node: Node) -> str | None:
    """The incarnation meant; None for any."""
    if text == "any":
        return None
    if text != "current" and "/" in text:
        return text
    current = node.status().get("incarnation")
    if text == "current":
        return None if current is None else str(current)
    if not text.isascii() or not text.isdigit():
        raise UsageError(
            f"--target {text[:60]!r}", "write EPOCH/N, N, current or any; nannyctl status shows it"
        )
    if current is None:
        raise UsageError(f"--target {text}: no worker has lived yet", "leave --target out")
    return f"{str(current).rpartition('/')[0]}/{text}"


class _Following:
    """One order on its way."""

    def __init__(
        self, node: Node, terminal: Terminal, order: dict[str, Any], options: argparse.Namespace
    ) -> None:
        self._node = node
        self._terminal = terminal
        self._order = order
        self._must_wait = bool(options.wait)
        self._is_json = bool(options.json)
        self._began = time.monotonic()
        self._deadline = self._began + (options.timeout or OUTCOME_TIMEOUT_S)
        self._is_accepted = False
        self._is_sent = False
        self._seen = ""
        """What was said last."""
        self._status: dict[str, Any] = {}
        self._reminded_at = self._began

    def follow(self) -> int:
        """Send, wait, tell."""
        try:
            return self._insist()
        except KeyboardInterrupt:
            if not self._is_sent:
                raise
            self._terminal.error(
                f"not waiting any longer; the order {self._order['command_id']} stands", "nannyctl status"
            )
            return exit_codes.INTERRUPTED

    def _insist(self) -> int:
        while True:
            try:
                code = self._once()
            except (NannyUnreachable, TryAgain) as away:
                # Before anything was sent, or when it was refused for now, the operator decides; later, we insist.
                if not (self._is_accepted or (self._is_sent and isinstance(away, NannyUnreachable))):
                    raise
                if self._seen != "away":
                    self._seen = "away"
                    self._say(
                        "away", "the nanny does not answer; the order stands and is sent again when it does"
                    )
                if time.monotonic() >= self._deadline:
                    return self._open()
                time.sleep(_RETRY_S)
                continue
            return code

    def _once(self) -> int:
        with self._node.connect() as client:
            if self._must_wait:
                self._status = client.subscribe()
                self._seen = self._seen or _position(self._status)
            time_to_live_s = TIME_TO_LIVE_S - (time.monotonic() - self._began)
            self._is_sent = True
            answer = client.request("command", **self._order, time_to_live_s=round(time_to_live_s, 3))
            if answer.get("state") == "finished":
                return self._tell(answer)
            if not self._is_accepted:
                self._is_accepted = True
                self._say("accepted", f"{self._order['kind']} {self._order['command_id']}")
            if not self._must_wait:
                return self._accepted()
            return self._await(client)

    def _await(self, client: ControlClient) -> int:
        while (left_s := self._deadline - time.monotonic()) > 0:
            push = client.next_push(min(left_s, _TICK_S))
            if push is None:
                self._tick()
            elif push.get("push") == "outcome" and push.get("command_id") == self._order["command_id"]:
                return self._tell(push)
            elif push.get("push") == "status" and isinstance(push.get("status"), dict):
                self._moved(push["status"])
        return self._open()

    def _moved(self, status: dict[str, Any]) -> None:
        """Say what changed: another phase, or another life."""
        self._status = status
        seen = _position(status)
        if seen != self._seen:
            self._seen = seen
            self._say(str(status.get("phase")), _first(status))

    def _tick(self) -> None:
        """Nothing happened for a second: show that somebody is still waiting."""
        now = time.monotonic()
        step = (
            f"waiting for {duration(now - self._began)}: {self._status.get('phase')}, {_first(self._status)}"
        )
        self._terminal.transient(visible(f"  {step}"))
        if now - self._reminded_at >= _REMINDER_S:
            self._reminded_at = now
            self._say(str(self._status.get("phase")), _first(self._status))

    def _say(self, what: str, words: str) -> None:
        elapsed = f"+{time.monotonic() - self._began:.1f} s"
        paint = self._terminal.paint_err
        self._terminal.progress(f"  {paint('faint', elapsed.rjust(8))}  {visible(what):<10} {visible(words)}")

    def _accepted(self) -> int:
        if self._is_json:
            self._terminal.json({"command_id": self._order["command_id"], "state": "accepted"})
        else:
            self._terminal.lines([f"accepted, not waited for: {self._order['command_id']}"])
        return exit_codes.OK

    def _open(self) -> int:
        """The time is over and the order is not."""
        waited_s = time.monotonic() - self._began
        if self._is_json:
            self._terminal.json(
                {
                    "command_id": self._order["command_id"],
                    "state": "accepted" if self._is_accepted else "unknown",
                    "waited_s": round(waited_s, 3),
                }
            )
        else:
            kind, command_id = self._order["kind"], self._order["command_id"]
            self._terminal.error(
                f"{kind} {command_id} has no outcome after {duration(waited_s)}; it stands",
                f"nannyctl explain; the same command with --id {command_id} waits on",
            )
        return exit_codes.AGAIN

    def _tell(self, outcome: dict[str, Any]) -> int:
        """The one outcome, as words and as an exit code."""
        word = str(outcome.get("outcome"))
        is_good = word in _GOOD
        try:
            self._show(outcome, word, is_good=is_good)
        except BrokenPipeError:
            # Nobody reads the words; the exit code must be right all the same.
            self._terminal.give_up_output()
        return exit_codes.OK if is_good else exit_codes.NO

    def _show(self, outcome: dict[str, Any], word: str, *, is_good: bool) -> None:
        if self._is_json:
            keys = ("command_id", "kind", "outcome", "detail", "incarnation")
            waited_s = round(time.monotonic() - self._began, 3)
            self._terminal.json({**{key: outcome.get(key) for key in keys}, "waited_s": waited_s})
        else:
            paint = self._terminal.paint
            detail = f": {visible(str(outcome.get('detail')))}" if outcome.get("detail") else ""
            self._terminal.lines(
                [f"{visible(str(outcome.get('kind')))} {paint('good' if is_good else 'bad', word)}{detail}"]
            )
            if is_good and outcome.get("kind") == "stop":
                self._terminal.progress("  the node stays down, over reboots too, until: nannyctl start")
            if not is_good:
                self._terminal.progress("  next: nannyctl explain")


def _position(status: dict[str, Any]) -> str:
    return f"{status.get('phase')} {status.get('incarnation')}"


def _first(status: dict[str, Any]) -> str:
    because = status.get("because") or [""]
    incarnation = str(status.get("incarnation") or "")
    words = str(because[0])
    return words.replace(incarnation, short(incarnation)) if incarnation else words
