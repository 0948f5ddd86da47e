"""The server, wired: every object is made here, gets what it needs, and is taken down in the opposite order.

Start: database, what was left undelivered, probes and syncer, the API; the port file last, when all of it
answers. Stop: links and workers are told to come back, waiting clients get their answer, requests end,
tasks are cancelled, the database is closed. Nothing else in the package imports this file but the command
line.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import web
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from yarl import URL

from nanny.protocol.session_events import SessionConfig
from server_stub import descriptors, fault_point
from server_stub.api import application
from server_stub.arrivals import ArrivalsByNode
from server_stub.authorisation import Authorisation
from server_stub.brakes import Brakes
from server_stub.changes import Changes
from server_stub.clock import SystemClock
from server_stub.commands import Commands
from server_stub.config import is_loopback
from server_stub.connections import OpenConnections
from server_stub.core.brakes import BrakeSettings
from server_stub.core.connectivity import Settings
from server_stub.core.repair import RepairMode, RepairSettings
from server_stub.core.repair_budget import BudgetSettings
from server_stub.event_retention import EventRetention
from server_stub.evidence import Evidence
from server_stub.http_runner import LINE_LIMIT_BYTES, ProblemRunner
from server_stub.links import Links
from server_stub.log import configure
from server_stub.loop_watch import LoopWatch
from server_stub.metrics import Metrics
from server_stub.old_objects import freeze_now_and_then
from server_stub.prober import Prober, ProbeSettings
from server_stub.repairs import Repairs
from server_stub.rollouts import Rollouts
from server_stub.routing import Services
from server_stub.sightings import Sightings
from server_stub.sink_courier import SinkCourier
from server_stub.sinks import SinkContext, installed
from server_stub.store import nodes
from server_stub.store.engine import Database, sqlite_url
from server_stub.store.faults import DatabaseUnavailable
from server_stub.syncer import Syncer
from server_stub.views import Views

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from structlog.typing import FilteringBoundLogger

    from server_stub.clock import Clock
    from server_stub.config import ServerConfig

KEEPALIVE_TIMEOUT_S: Final = 75.0
"""A connection that says nothing, or begins a request and never ends its headers, is closed after this."""
SHUTDOWN_TIMEOUT_S: Final = 3.0
BACKLOG: Final = 1024


class StartError(Exception):
    """The server cannot start: the machine's fault or the operator's, said in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """What is up, for whoever started it."""

    url: str
    port: int
    database: Database
    syncer: Syncer
    brakes: Brakes
    repairs: Repairs
    commands: Commands
    evidence: Evidence
    links: Links
    connections: OpenConnections
    arrivals: ArrivalsByNode
    changes: Changes
    metrics: Metrics
    loop_watch: LoopWatch
    failed: asyncio.Task[None]
    """Ends only by an error: one of the server's own loops is gone."""


def data_directory(config: ServerConfig) -> Path:
    """Give the directory of what the server keeps: the configured one, that of its SQLite file, or the user's own."""
    if config.data_dir is not None:
        return Path(config.data_dir)
    if config.database is not None:
        with suppress(ArgumentError):  # said elsewhere, in its own words
            where = make_url(config.database if "://" in config.database else sqlite_url(config.database))
            if where.get_backend_name() == "sqlite" and where.database:
                return Path(where.database).resolve().parent
    state_home = os.environ.get("XDG_STATE_HOME")
    directory = Path(state_home) if state_home else Path.home() / ".local" / "state"
    return directory / "nodenanny-server"


def database_url(config: ServerConfig) -> str:
    """Give the database's URL, making the directory of a default one.

    Raises:
        StartError: the directory cannot be made.
    """
    if config.database is not None:
        return config.database if "://" in config.database else sqlite_url(config.database)
    directory = data_directory(config)
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StartError(f"cannot make the data directory {directory}: {error.strerror}") from error
    return sqlite_url(str(directory / "server.sqlite3"))


@asynccontextmanager
async def running(config: ServerConfig, clock: Clock | None = None) -> AsyncIterator[RunningServer]:
    """Run the server for the length of the block.

    Raises:
        StartError: the port or the database is not to be had, or the fleet needs more descriptors than there are.
    """
    clock = clock or SystemClock()
    bound = (
        {} if is_loopback(config.host) else {"insecure_bind": f"anyone who reaches {config.host} may command"}
    )
    log, metrics = configure(config.log_level, **bound), Metrics()
    fault_point.arm(config.fault_point)
    async with AsyncExitStack() as stack:
        database = await _open_database(database_url(config))
        stack.callback(log.info, "server has stopped")
        stack.push_async_callback(database.close)
        database.on_write = metrics.write_ended
        changes, arrivals = Changes(int(clock.wall() * 1000)), ArrivalsByNode(clock.monotonic())
        connections, loop_watch = (
            OpenConnections(),
            LoopWatch(metrics, log, partial(_excuse, arrivals, clock, config.offline_timeout_s)),
        )
        sightings = await stack.enter_async_context(
            Sightings(
                database=database,
                arrivals=arrivals,
                clock=clock,
                log=log,
                metrics=metrics,
                interval_s=config.sightings_interval_s,
            )
        )
        probe_settings = ProbeSettings(
            budget_s=config.probe_budget_s,
            try_timeout_s=config.probe_try_timeout_s,
            interval_s=config.probe_interval_s,
        )
        prober = await stack.enter_async_context(Prober(probe_settings, clock, metrics))
        settings = Settings(
            offline_timeout_s=config.offline_timeout_s, silence_timeout_s=config.silence_timeout_s
        )
        brakes = Brakes(
            database=database,
            changes=changes,
            clock=clock,
            log=log,
            metrics=metrics,
            settings=BrakeSettings(
                share=config.demotion_brake_share,
                nodes=config.demotion_brake_nodes,
                fleet=config.demotion_brake_fleet,
                window_s=config.demotion_brake_window_s,
                calm_s=config.probe_interval_s + config.probe_budget_s,
            ),
            # After the longest silence, each node still gets its turn to be probed.
            release_after_s=config.offline_timeout_s + config.probe_interval_s + config.probe_budget_s,
        )
        await brakes.load()
        syncer = Syncer(
            database=database,
            arrivals=arrivals,
            prober=prober,
            brakes=brakes,
            changes=changes,
            clock=clock,
            settings=settings,
            log=log,
            metrics=metrics,
            concurrency=config.probe_concurrency,
        )
        commands = Commands(
            database=database,
            connections=connections,
            changes=changes,
            clock=clock,
            log=log,
            metrics=metrics,
        )
        stack.push_async_callback(commands.close)
        await commands.load()
        rollouts = Rollouts(
            database=database,
            commands=commands,
            arrivals=arrivals,
            syncer=syncer,
            changes=changes,
            clock=clock,
            log=log,
        )
        await rollouts.load()
        repairs = Repairs(
            database=database,
            arrivals=arrivals,
            commands=commands,
            brakes=brakes,
            changes=changes,
            clock=clock,
            log=log,
            metrics=metrics,
            settings=RepairSettings(
                mode=RepairMode(config.repair),
                after_s=config.repair_after_s,
                silence_timeout_s=config.silence_timeout_s,
                offline_timeout_s=config.offline_timeout_s,
                looked_within_s=config.probe_interval_s + 2 * config.probe_budget_s,
            ),
            budgets=BudgetSettings(
                node_interval_s=config.repair_node_interval_s,
                node_daily=config.repair_node_daily,
                fleet_window_s=config.repair_fleet_window_s,
                fleet_share=config.repair_fleet_share,
            ),
            recheck_s=config.probe_interval_s,
        )
        await repairs.load()
        syncer.watchers.append(repairs)
        session_config = SessionConfig(
            hello_timeout_s=config.hello_timeout_s,
            keepalive_interval_s=config.keepalive_interval_s,
            report_interval_s=config.report_interval_s,
        )
        evidence = Evidence(
            database=database,
            changes=changes,
            clock=clock,
            log=log,
            metrics=metrics,
            directory=data_directory(config) / "evidence",
            limit_bytes=config.evidence_limit_mib << 20,
            kept_s=config.events_kept_s,
        )
        links = Links(
            database=database,
            connections=connections,
            arrivals=arrivals,
            syncer=syncer,
            commands=commands,
            evidence=evidence,
            changes=changes,
            clock=clock,
            log=log,
            metrics=metrics,
            session_config=session_config,
            limit=config.connections_limit,
            nodes_limit=await _nodes_limit(config, database, log),
        )
        services = Services(
            database=database,
            arrivals=arrivals,
            syncer=syncer,
            brakes=brakes,
            repairs=repairs,
            commands=commands,
            rollouts=rollouts,
            evidence=evidence,
            links=links,
            changes=changes,
            views=Views(clock),
            authorisation=Authorisation(host=config.host),
            clock=clock,
            log=log,
            metrics=metrics,
        )
        retention = EventRetention(
            database=database,
            clock=clock,
            log=log,
            metrics=metrics,
            kept_s=config.events_kept_s,
            limit=config.events_limit,
        )
        couriers = await _couriers(config, database, changes, log, metrics)
        loops = asyncio.create_task(
            _run_loops(
                loop_watch=loop_watch.run,
                syncer=syncer.run,
                sightings=sightings.run,
                brakes=brakes.run,
                repairs=repairs.run,
                commands=commands.run,
                rollouts=rollouts.run,
                evidence=evidence.run,
                retention=retention.run,
                **{f"sink {number}": courier.run for number, courier in enumerate(couriers)},
            ),
            name="server loops",
        )
        stack.push_async_callback(_cancel, loops)
        runner = ProblemRunner(
            application(services),
            access_log=None,
            max_line_size=LINE_LIMIT_BYTES,
            keepalive_timeout=KEEPALIVE_TIMEOUT_S,
            shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        bound_socket = _bind(config.host, config.port)
        await web.SockSite(runner, bound_socket, backlog=BACKLOG).start()
        stack.push_async_callback(links.shut_down)
        stack.callback(changes.close)
        host, port = bound_socket.getsockname()[:2]
        url = str(URL.build(scheme="http", host=host, port=port))
        if config.port_file is not None:
            _write_port_file(config.port_file, port)
            stack.callback(Path(config.port_file).unlink, missing_ok=True)
        log.info(
            "server is listening", url=url, database=database.engine.url.render_as_string(), pid=os.getpid()
        )
        yield RunningServer(
            url=url,
            port=port,
            database=database,
            syncer=syncer,
            brakes=brakes,
            repairs=repairs,
            commands=commands,
            evidence=evidence,
            links=links,
            connections=connections,
            arrivals=arrivals,
            changes=changes,
            metrics=metrics,
            loop_watch=loop_watch,
            failed=loops,
        )
        log.info("server is stopping")


async def serve(config: ServerConfig) -> None:
    """Run the server until SIGTERM or SIGINT.

    Raises:
        StartError: it cannot start.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    async with AsyncExitStack() as stack:
        try:
            server = await stack.enter_async_context(running(config))
        except DatabaseUnavailable as error:
            raise StartError(f"the database does not answer: {error}") from error
        stopped = asyncio.create_task(stop.wait(), name="stop signal")
        freezing = asyncio.create_task(freeze_now_and_then(), name="old objects")
        try:
            await asyncio.wait({stopped, server.failed}, return_when=asyncio.FIRST_COMPLETED)
            if server.failed.done():
                server.failed.result()
        finally:
            await _cancel(freezing)
            await _cancel(stopped)


def _excuse(arrivals: ArrivalsByNode, clock: Clock, offline_timeout_s: float, lag_s: float) -> None:
    """After a standstill of our own that makes silence of everybody, listen anew to whoever was there before."""
    if lag_s >= offline_timeout_s / 2:
        arrivals.excuse(clock.monotonic(), lag_s, offline_timeout_s)


async def _couriers(
    config: ServerConfig, database: Database, changes: Changes, log: FilteringBoundLogger, metrics: Metrics
) -> list[SinkCourier]:
    """Give a courier for each sink, from where the sink was left, a new one from here on."""
    made = [
        SinkCourier(sink, database=database, changes=changes, log=log, metrics=metrics)
        for sink in installed(SinkContext(settings=config, environ=os.environ, log=log))
    ]
    for courier in made:
        await courier.begin()
    return made


async def _open_database(url: str) -> Database:
    try:
        shown = make_url(url).render_as_string()  # without its password
    except ArgumentError as error:
        raise StartError("the database's URL cannot be read, expected a path or scheme://…") from error
    try:
        return await Database.open(url, alone=True)
    except Exception as error:
        why = getattr(error, "orig", None) or error
        raise StartError(f"cannot open the database {shown}: {why}") from error


async def _nodes_limit(config: ServerConfig, database: Database, log: FilteringBoundLogger) -> int:
    """Give how many nodes may be kept: as configured, or for how many the descriptors suffice.

    Raises:
        StartError: for fewer than there are.
    """
    limit = descriptors.raise_limit()
    async with database.reading() as session:
        known = await nodes.count(session)
    try:
        descriptors.check(limit, known, config.connections_limit)
    except descriptors.TooFewDescriptors as error:
        raise StartError(str(error)) from None
    places = descriptors.places_for_nodes(limit, config.connections_limit)
    if places < config.nodes_limit:
        log.info("the limit of descriptors bounds the fleet", nodes=places, descriptors=limit)
    return min(config.nodes_limit, places)


async def _run_loops(**loops: Callable[[], Coroutine[None, None, None]]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for name, loop in loops.items():
            tasks.create_task(loop(), name=name)


async def _cancel(task: asyncio.Task[object]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except OSError as error:
        raise StartError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; --port 0 takes a free one"
        ) from error
    bound.setblocking(False)
    return bound


def _write_port_file(path: str, port: int) -> None:
    """Write the port so that a reader sees all of it or no file."""
    unfinished = Path(f"{path}.{os.getpid()}")
    try:
        unfinished.write_text(f"{port}\n")
        unfinished.replace(path)
    except OSError as error:
        raise StartError(f"cannot write the port file {path}: {error.strerror}") from error
