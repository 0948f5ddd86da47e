"""What crosses the network under attack: frames, sessions, orders, reports, health answers, the server's API.

A hostile server speaks to link, a hostile node to the server, and anyone to /healthz. Each oracle is the parser's own
docstring: it raises its declared error, or gives what can be written and read again as the same.
"""

import json
import select
import socket
from contextlib import suppress
from typing import Any

from tests.fuzz.target import Run, Scratch, Target

ID = "0190e0a0-5c1e-7d52-8f3b-6f2d4a9b1c07"


def _frame(_scratch: Scratch) -> Run:
    from nanny.protocol.codec import decode_frame, encode_frame
    from nanny.protocol.errors import ProtocolViolation

    def run(given: bytes) -> None:
        try:
            frame = decode_frame(given)
        except ProtocolViolation as violation:
            _check_words(violation)
            return
        written = encode_frame(frame.message, version=frame.version, sequence=frame.sequence)
        assert decode_frame(written) == frame

    return run


def _message(_scratch: Scratch) -> Run:
    """Messages as JSON: the control socket carries them so, and mutation writes JSON more easily than msgpack."""
    from nanny.protocol.codec import decode_frame, encode_frame
    from nanny.protocol.errors import ProtocolViolation
    from nanny.protocol.messages import from_wire

    def run(given: bytes) -> None:
        plain = _json(given)
        try:
            message = from_wire(plain)
        except ProtocolViolation as violation:
            _check_words(violation)
            return
        try:
            written = encode_frame(message, version=1)
        except UnicodeEncodeError:
            return  # a lone surrogate, which no frame can bring in
        assert decode_frame(written).message == message

    return run


def _session(_scratch: Scratch) -> Run:
    """Frames of a hostile peer, whole examples and garbage, at each end, over lost connections and deadlines."""
    from nanny.protocol.codec import decode_frame, encode_frame
    from nanny.protocol.link_session import LinkSession
    from nanny.protocol.messages import SENT_BETWEEN, Hello, Role
    from nanny.protocol.session_events import BacklogFull, LocalError
    from nanny.protocol.session_states import State
    from tests.support.wire_examples import EXAMPLES, HELLO

    examples = list(EXAMPLES.values())
    ends = (
        (Role.LINK, Role.SERVER),
        (Role.WORKER, Role.SERVER),
        (Role.SERVER, Role.LINK),
        (Role.SERVER, Role.WORKER),
    )

    def run(given: bytes) -> None:
        if not given:
            return
        role, peer = ends[given[0] % len(ends)]
        session, now, at = LinkSession(role, peer), 10.0, 1
        while at < len(given):
            kind, at, now = given[at], at + 1, now + 0.25
            if session.state is State.OFFLINE:
                if role is Role.SERVER:
                    session.connection_accepted("fresh", now)
                else:
                    hello = (
                        HELLO
                        if role is Role.LINK
                        else next(one for one in examples if isinstance(one, Hello) and one.role is role)
                    )
                    session.connection_made(hello, now)
            if kind < 128:
                message, sequence = examples[kind % len(examples)], given[at : at + 1]
                number = (sequence[0] or None) if sequence else None
                session.receive_frame(encode_frame(message, version=1, sequence=number), now)
                at += 1
            elif kind < 192:
                length = kind - 128
                session.receive_frame(given[at : at + length], now)
                at += length
            elif kind < 208:
                session.connection_lost()
            elif kind < 224:
                now += 4.0
                session.handle_deadline(now)
            else:
                message = examples[kind % len(examples)]
                if SENT_BETWEEN.get(type(message)) == (role, peer):  # type: ignore[arg-type]
                    with suppress(BacklogFull, LocalError):
                        session.send(message)  # type: ignore[arg-type]
            for frame in session.frames_to_send():
                decode_frame(frame)
            deadline = session.next_deadline()
            assert deadline is None or deadline > now - 3600

    return run


def _link_order(scratch: Scratch) -> Run:
    """A server's order on its way through link into the nanny's reading of a request: taken, or refused in words."""
    from nanny.control import Client, RequestError, Role
    from nanny.control_requests import _command_of
    from nanny.link.orders import HeldOrders
    from nanny.linux.peer_credentials import Credentials
    from nanny.protocol.errors import ProtocolViolation
    from nanny.protocol.messages import CommandOrder, from_wire

    client = Client(scratch.enter_context(socket.socket()), Credentials(1, 2, 3), Role.LINK)

    def run(given: bytes) -> None:
        try:
            order = from_wire(
                {
                    "t": "command-order",
                    "b": {
                        "command_id": ID,
                        "kind": "restart",
                        "time_to_live_s": 60.0,
                        "reason": "r",
                        "actor": "a",
                        **_object(given),
                    },
                }
            )
        except ProtocolViolation:
            return
        assert isinstance(order, CommandOrder)
        orders = HeldOrders()
        orders.put(order, 5.0)
        held = orders.first()
        assert held is not None
        request = json.loads(json.dumps(held.request(5.5)))
        try:
            command = _command_of(request, client)
        except RequestError:
            return
        assert (command.id, str(command.kind)) == (order.command_id, order.kind)
        assert command.reason.isprintable()

    return run


def _link_report(_scratch: Scratch) -> Run:
    """Whatever the nanny's status is like, link makes a report of it or says which field it cannot send."""
    from nanny.link.report import report_of, report_without_nanny
    from nanny.protocol.messages import from_wire, to_wire

    def run(given: bytes) -> None:
        status = _object(given)
        for report in (
            report_of(status, 0.5, 1000.0),
            report_without_nanny(status, 0.5, 3.0, 1000.0, "gone"),
        ):
            try:
                plain = to_wire(report)
            except ValueError:
                continue
            assert from_wire(plain) == from_wire(json.loads(json.dumps(plain)))

    return run


def _link_pushes(_scratch: Scratch) -> Run:
    """Lines from the control socket, as link takes them in: understood, or refused and counted."""
    from nanny.common.log_lines import LogLines
    from nanny.link.bridge import Bridge
    from nanny.link.config import LinkConfig
    from nanny.link.control_client import ControlClient
    from nanny.link.counters import Counters

    log = LogLines(lambda _: None, "fuzz", lambda: 0.0)

    class Server:
        is_open = True
        wanted_report_interval_s = None

        def send(self, message: Any) -> None:
            from nanny.protocol.messages import to_wire

            try:
                to_wire(message)
            except ValueError:
                return  # told as an error of ours

    def run(given: bytes) -> None:
        counters = Counters()
        bridge = Bridge(LinkConfig(), "m", "1", counters, log)
        bridge.server = Server()  # type: ignore[assignment]
        bridge.nanny = ControlClient(
            "/nowhere",
            on_connected=bridge.nanny_connected,
            on_push=bridge.nanny_pushed,
            on_lost=lambda _why: None,
            counters=counters,
            log=log,
        )
        for line in given.split(b"\n"):
            try:
                bridge.nanny._take(line)
            except ValueError:
                return  # ends the connection, and says why
        if bridge.is_known.is_set():
            bridge.hello()

    return run


def _http_request(_scratch: Scratch) -> Run:
    """The verdict on a request does not depend on how it was cut: no beginning of a good one is refused."""
    from agent.vitals.http_request import HEAD_LIMIT_BYTES, RequestRefused, parse_head

    def run(given: bytes) -> None:
        try:
            parsed = parse_head(given)
        except RequestRefused as refused:
            if refused.status not in {400, 405, 413, 431, 505}:
                raise
            return
        if parsed is None:
            assert len(given) < HEAD_LIMIT_BYTES + 4
            return
        request, length = parsed
        assert 0 < length <= len(given)
        assert parse_head(given[:length]) == parsed
        request.has_flag("verbose")
        for cut in {*range(0, length, max(1, length // 16)), length - 1, length - 2, length - 3}:
            if 0 <= cut < length:
                assert parse_head(given[:cut]) is None, given[:cut]

    return run


def _http_connection(scratch: Scratch) -> Run:
    """The vitals thread's connections on real sockets: what is answered is HTTP, what fails is counted as nothing."""
    from agent.core.health import Observation, assess
    from agent.vitals.answers import Answers
    from agent.vitals.connections import PIPELINE_LIMIT, Connections
    from agent.vitals.snapshot import Snapshot

    seen = Observation(
        snapshot=Snapshot(started=True), loop_lag_s=0.0, progress=(), expected=None, stalled_at=None,
        stall_stack=None, incarnation=None, pid=1, uptime_s=1.0,
    )  # fmt: skip
    answers = Answers(lambda: (seen, assess(seen, 30.0)), lambda: "m 1\n", "token", trusts_loopback=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"\0fuzz-{id(answers)}-{scratch.folder.name}")
    listener.listen(8)
    listener.setblocking(False)
    epoll = select.epoll()
    connections = Connections(
        epoll, listener, lambda request, near: answers.answer(request, is_loopback=near), 8, 5.0, 75.0
    )

    scratch.callback(connections.close)
    scratch.callback(epoll.close)

    def serve() -> None:
        for _ in range(200):
            events = epoll.poll(0, 16)
            if not events:
                return
            for fd, mask in events:
                connections.on_event(fd, mask, 1.0)
        raise AssertionError("it spins")

    def run(given: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(listener.getsockname())
            heard, third = b"", max(1, len(given) // 3)
            for start in range(0, len(given), third):
                try:
                    client.send(given[start : start + third], socket.MSG_NOSIGNAL)
                except (BrokenPipeError, ConnectionResetError):
                    break
                serve()
                heard += _drained(client)
            client.shutdown(socket.SHUT_WR)
            serve()
            heard += _drained(client)
        serve()
        connections.sweep(1e9)
        assert len(connections) == 0
        assert connections.counts["failed"] == 0, connections.counts
        count = 0
        while heard:
            count += 1
            head, end, rest = heard.partition(b"\r\n\r\n")
            assert end, heard
            assert head.startswith(b"HTTP/1.1 "), head
            lengths = [int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")]
            assert len(lengths) == 1, head
            # An answer to HEAD has no body; the next one begins at once.
            heard = rest if rest.startswith(b"HTTP/1.1 ") or not rest else rest[lengths[0] :]
        assert count <= 3 * (PIPELINE_LIMIT + 1)

    return run


def _drained(client: socket.socket) -> bytes:
    chunks = []
    try:
        while chunk := client.recv(1 << 20, socket.MSG_DONTWAIT):
            chunks.append(chunk)
    except (BlockingIOError, ConnectionResetError):
        pass
    return b"".join(chunks)


def _health_answer(_scratch: Scratch) -> Run:
    """What a node answers to the server's probe."""
    from server_stub.core.healthz_answer import WHERE_LIMIT, classify
    from server_stub.core.node_facts import ProbeClass

    def run(given: bytes) -> None:
        for status in (200, 503):
            answer = classify(status, given, "n")
            assert answer.result in set(ProbeClass)
            assert answer.where is None or len(answer.where) <= WHERE_LIMIT

    return run


def _api_command(_scratch: Scratch) -> Run:
    from server_stub import command_request
    from server_stub.problems import Problem

    def run(given: bytes) -> None:
        try:
            request = command_request.parse(_json(given), "n", "default")
            command_request.parse_key(request.reason)
        except Problem:
            return

    return run


def _check_words(refusal: Exception) -> None:
    """A refusal never repeats much of what came."""
    assert len(str(refusal)) < 2000, str(refusal)[:100]


def _json(given: bytes) -> Any:
    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        return None


def _object(given: bytes) -> dict[str, Any]:
    plain = _json(given)
    return plain if isinstance(plain, dict) else {}


TARGETS = (
    Target("frame", _frame),
    Target("message", _message),
    Target("session", _session, longest=512),
    Target("link-order", _link_order),
    Target("link-report", _link_report),
    Target("link-pushes", _link_pushes),
    Target("http-request", _http_request, longest=12_000),
    Target("http-connection", _http_connection, longest=20_000),
    Target("health-answer", _health_answer),
    Target("api-command", _api_command),
)
