"""The nanny's own doors and files under attack: beats, control lines, the journal, what the kernel and /run tell.

Journal and facts carry checksums, which no mutation gets right: those targets put the right one in front, so that
what is tried is what stands behind it. Each oracle is the parser's own docstring, and where there is an encoder, the
way back.
"""

import json
import os
import socket
from pathlib import Path
from typing import Any

from tests.fuzz.target import Run, Scratch, Target

BOOT = "0f4a2c1e-8b7d-4e5f-9a3c-6d1e2f3a4b5c"


def _beat(_scratch: Scratch) -> Run:
    from nanny.protocol import notify_format
    from nanny.protocol.errors import ProtocolViolation

    def run(given: bytes) -> None:
        try:
            beat = notify_format.parse(given)
        except ProtocolViolation:
            return
        # Writing brings texts into form; from then on nothing may change any more.
        written = notify_format.render(beat)
        assert len(written) <= notify_format.DATAGRAM_LIMIT_BYTES, len(written)
        again = notify_format.parse(written)
        assert notify_format.parse(notify_format.render(again)) == again, (beat, again)

    return run


def _beat_to_core(_scratch: Scratch) -> Run:
    """What a beat says reaches `step`: no age, however strange, may break a rule or a deadline."""
    from nanny.core import events as e
    from nanny.core import invariants
    from nanny.core.config import PolicyConfig
    from nanny.core.policy import next_deadline, step
    from nanny.protocol import notify_format
    from nanny.protocol.errors import ProtocolViolation
    from tests.fuzz.running_core import running

    config = PolicyConfig()
    born = running(config, 100.0)

    def run(given: bytes) -> None:
        state, now = born, 100.0
        for datagram in given.split(b"\0"):
            now += 0.5
            try:
                beat = notify_format.parse(datagram)
            except ProtocolViolation:
                continue
            assert state.incarnation is not None
            event = e.HeartbeatReceived(
                state.incarnation,
                watchdog=beat.watchdog,
                ready=beat.ready,
                stopping=beat.stopping,
                trigger=beat.trigger,
                loop_lag_s=beat.loop_lag_s,
                overdue=tuple(one.name for one in beat.progress if one.critical and one.is_overdue),
                expected_s=beat.expected_until or 0.0,
                stalled_at=beat.stalled_at or "",
                extend_s=beat.extend_timeout_s or 0.0,
                stuck_probes=beat.stuck_probes or 0,
            )
            for happened in (event, e.TimePassed()):
                before, result = state, step(state, happened, now, config)
                broken = invariants.violations(before, happened, result, now, config)
                assert not broken, broken
                state = result.state
                deadline = next_deadline(state, config)
                assert deadline is None or deadline < now + 1e6, deadline

    return run


def _control(scratch: Scratch) -> Run:
    """A real control socket, asked by a client of any role; no request may be an internal error."""
    from nanny.common.log_lines import LogLines
    from nanny.control import ControlSocket, Role
    from nanny.event_loop import DeadlineSource, EventLoop
    from nanny.linux.clocks import SystemClock
    from tests.fuzz.running_core import SteppedCore, serve_requests

    loop = EventLoop(SystemClock(), 1e9, lambda _: None, lambda _: None)
    loop.add_source(DeadlineSource(lambda: loop.now, lambda _now: None))  # never waits
    raised: list[object] = []
    loop.on_error = lambda what, error: raised.append((what, error))
    roles = list(Role)
    role = [Role.OPERATOR]
    path = str(scratch.folder / "control")
    control = ControlSocket(path, loop, LogLines(lambda _: None, "fuzz", lambda: 0.0), lambda _peer: role[0])
    scratch.callback(loop.close)
    scratch.callback(control.close)
    core = SteppedCore()
    serve_requests(control, core)

    def run(given: bytes) -> None:
        core.reset()
        role[0] = roles[given[0] % len(roles)] if given else Role.OPERATOR
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(path)
            client.setblocking(False)
            client.send(given[1:] or b"\n")
            client.shutdown(socket.SHUT_WR)
            heard = b""
            for _ in range(1000):
                loop.turn()
                try:
                    chunk = client.recv(1 << 20)
                except BlockingIOError:
                    continue
                if not chunk:
                    break
                heard += chunk
            else:
                raise AssertionError("the connection does not end")
        assert not raised, raised
        for line in heard.splitlines():
            answer = json.loads(line)
            assert "push" in answer or answer["ok"] is True or "internal" not in answer["error"], answer

    return run


def _journal_file(_scratch: Scratch) -> Run:
    from nanny.journal import records_file

    def run(given: bytes) -> None:
        parsed = records_file.parse(given)
        assert parsed.valid_bytes + parsed.torn_bytes + parsed.damaged_bytes == len(given)
        if parsed.header is None:
            return
        kept = records_file.parse(given[: parsed.valid_bytes])
        assert (kept.header, kept.records) == (parsed.header, parsed.records)
        assert not kept.torn_bytes
        rewritten = records_file.render_file(parsed.header, parsed.lines)
        assert records_file.parse(rewritten).records == parsed.records

    return run


def _journal_records(_scratch: Scratch) -> Run:
    """Lines of JSON with the right checksums in front, through to the state that a nanny would start from."""
    import zlib

    from nanny import adoption
    from nanny.core import events as e
    from nanny.core import invariants, startup
    from nanny.core.config import PolicyConfig
    from nanny.core.policy import next_deadline, step
    from nanny.journal import records_file

    config = PolicyConfig()
    header = records_file.Header(epoch="e", generation=1)
    head = records_file.render_header(header)

    def run(given: bytes) -> None:
        texts = given.split(b"\n")
        content = head + b"".join(b"%08x %b\n" % (zlib.crc32(text), text) for text in texts)
        parsed = records_file.parse(content)
        # Numbers that are out of order end the file; the records themselves are tried all the same.
        lines = [
            record
            for record in map(records_file.parse_line, content.split(b"\n"))
            if isinstance(record, dict)
        ]
        for plain in (list(parsed.records), lines):
            records, problems = adoption.parse_records(plain, BOOT)
            assert len(records) + len(problems) <= len(plain)
            recovered = startup.recover(records, (), 1000.0, ("e1", "e2"), config)
            begun = step(recovered.state, e.NannyStarted(), 1000.0, config).state
            assert not invariants.cheap(begun, config), invariants.cheap(begun, config)
            next_deadline(begun, config)
            adoption.add_unknown_orders(list(records), records)
            for record in startup.compact(recovered.state, ()):
                records_file.render_body(_plain(record))

    return run


def _plain(record: Any) -> dict[str, Any]:
    from nanny.core.records import from_json, to_json

    plain = to_json(record)
    assert from_json(json.loads(json.dumps(plain))) == record, plain
    return plain


def _journal_packets(_scratch: Scratch) -> Run:
    from nanny.journal import packets

    def run(given: bytes) -> None:
        try:
            packet = packets.decode(given)
        except ValueError:
            return
        written = packets.encode(packet)
        assert packets.encode(packets.decode(written)) == written

    return run


def _facts(scratch: Scratch) -> Run:
    """The file in /run, its checksum right, read by a nanny that starts: living workers, orders, the link."""
    import zlib

    from nanny import adoption, facts

    path = str(scratch.folder / "facts")

    def run(given: bytes) -> None:
        Path(path).write_bytes(b"%08x %b\n" % (zlib.crc32(given), given))
        remembered = facts.read_facts(path).facts
        if remembered is None:
            return
        plain = remembered.get("records")
        records, _problems = adoption.parse_records(plain if isinstance(plain, list) else [], BOOT)
        adoption.add_unknown_orders([], records)
        for found in adoption.find_living(records):
            os.close(found.pidfd)

    return run


def _environment(_scratch: Scratch) -> Run:
    """Variables that a service manager or a strange shell left: they count, or they count as absent."""
    from agent.vitals.config import claim_environ
    from nanny.linux.inherited_sockets import environment_for_child, take_inherited
    from nanny.linux.systemd_notify import watchdog_interval_s

    def run(given: bytes) -> None:
        environ = {}
        for line in given.decode("utf-8", "replace").replace("PID", str(os.getpid())).split("\n"):
            name, _, value = line.partition("=")
            environ[{"P": "LISTEN_PID", "F": "LISTEN_FDS", "N": "LISTEN_FDNAMES"}.get(name, name)] = value
        interval_s = watchdog_interval_s(environ)
        assert interval_s is None or interval_s > 0
        config = claim_environ(dict(environ))
        assert 0.01 <= config.interval_s < 3600
        assert config.listener_fd is None or config.listener_fd >= 3
        before = dict(environ)
        for name, descriptors in take_inherited(environ).items():
            assert descriptors, name
        assert not [name for name in environ if name.startswith("LISTEN_") and name in before]
        try:
            environment_for_child(before.get("LISTEN_FDNAMES", "").split(":"))
        except ValueError:
            return

    return run


def _procfs(scratch: Scratch) -> Run:
    """What /proc says of a process; names in it are the process's own choice, and files end anywhere."""
    from nanny.errors import HostError
    from nanny.linux import cgroup, procfs

    folder = scratch.folder
    proc = str(folder)
    files = ("1/stat", "1/status", "1/task/1/schedstat", "1/wchan", "self/mountinfo")
    for name in (*files, "self/cgroup", "cg/cpu.stat", "cg/cpu.pressure", "cg/cgroup.procs"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (folder / "self/cgroup").write_bytes(b"0::/a\n")
    group = cgroup.SubCgroup(str(folder / "cg"))
    reads = (
        ("1/stat", lambda: procfs.read_stat(1, proc)),
        ("1/status", lambda: procfs.read_status(1, proc)),
        ("1/task/1/schedstat", lambda: procfs.read_schedstat(1, 1, proc)),
        ("1/wchan", lambda: procfs.read_wchan(1, None, proc)),
        ("self/mountinfo", lambda: cgroup.own_cgroup_dir(proc)),
        ("cg/cpu.stat", group.cpu_stat),
        ("cg/cpu.pressure", lambda: group.pressure("cpu")),
        ("cg/cgroup.procs", group.pids),
    )

    def run(given: bytes) -> None:
        name, read = reads[given[0] % len(reads)] if given else reads[0]
        (folder / name).write_bytes(given[1:])
        try:
            read()
        except (HostError, ProcessLookupError):
            return

    return run


def _kernel_log(_scratch: Scratch) -> Run:
    from agent.core.kernel_log import find_incident, parse_record

    def run(given: bytes) -> None:
        record = parse_record(given)
        if record is None:
            return
        assert 0 <= record.priority <= 7
        assert len(record.text) <= 512
        incident = find_incident(record)
        assert incident is None or incident.record is record

    return run


def _stacks(_scratch: Scratch) -> Run:
    """What the worker wrote into its memfd, or claims to be faulthandler's."""
    from nanny.core import stack_text

    def run(given: bytes) -> None:
        for dump in stack_text.parse(given.decode("utf-8", "replace")):
            thread = stack_text.culprit(dump)
            if thread is not None:
                assert len(stack_text.stalled_at(thread)) <= 3 * stack_text.NAME_LIMIT + 100
                stack_text.signature(thread)

    return run


def _evidence_answer(_scratch: Scratch) -> Run:
    from nanny.evidence import answer

    def run(given: bytes) -> None:
        told = answer.parse(given)
        if told is not None:
            answer.render(told)

    return run


TARGETS = (
    Target("beat", _beat),
    Target("beat-to-core", _beat_to_core),
    Target("control", _control),
    Target("journal-file", _journal_file),
    Target("journal-records", _journal_records),
    Target("journal-packets", _journal_packets),
    Target("facts", _facts),
    Target("environment", _environment),
    Target("procfs", _procfs),
    Target("kernel-log", _kernel_log),
    Target("stacks", _stacks),
    Target("evidence-answer", _evidence_answer),
)
