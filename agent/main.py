"""The agent, wired: every object of the event loop is made here, and taken down in the opposite order.

Start: log, loop, probe pool, services; READY=1 when these run, whether or not a server answers. Stop, by SIGTERM
or SIGINT: STOPPING=1, goodbye to the server, helpers ended, log flushed, exit 0. From the first signal on the
kernel's own default stands behind it: a second one ends the process at once, and so does a timer when the end
takes too long. signal(7), setitimer(2).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

import structlog

from agent.agent_metrics import agent_metrics
from agent.config import is_loopback
from agent.fault_injection import FaultInjection
from agent.identity import Identity, find_identity
from agent.log import LogOutlet, configure_logging
from agent.nanny_watch import NannyWatch
from agent.plugins import PluginContext, load_plugins
from agent.registration import RegistrationSource
from agent.reporter import Reporter
from agent.server_dial import Dialler
from agent.server_link import ServerLink
from agent.services import Service, Services
from agent.telemetry.collector import Collector, CollectorConfig
from agent.telemetry.kernel_log import KernelLog
from agent.telemetry.probe_pool import ProbePool
from nanny.common.backoff import Backoff
from nanny.protocol.session_events import SessionConfig

if TYPE_CHECKING:
    from agent.config import AgentConfig
    from agent.telemetry.probe_launch import LaunchedServer
    from agent.vitals.thread import Vitals

_SERVICE_DEADLINE_S: Final = 60.0
_PLUGINS_LIMIT_S: Final = 60.0
_HELPERS_GRACE_S: Final = 0.3
_LOG_GRACE_S: Final = 0.3
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What takes time and is the same in any life of this node's worker: a standby has it before it is one."""

    loop: asyncio.AbstractEventLoop
    identity: Identity
    pool: ProbePool
    dialler: Dialler | None


def prepare(config: AgentConfig, probe_server: LaunchedServer | None) -> Prepared:
    """Do what may block before the loop turns.

    Args:
        config: the settings.
        probe_server: launched already; None where that failed.

    Raises:
        OSError: the certificates cannot be read.
    """
    pool = ProbePool(first=probe_server)
    dialler = None
    if config.server_url is not None:
        dialler = Dialler(config.server_url, config.server_ca_file, pool, config.connect_timeout_s)
    return Prepared(_new_event_loop(), find_identity(config.node_name, os.environ, None), pool, dialler)


def run(config: AgentConfig, incarnation: str | None, vitals: Vitals, prepared: Prepared) -> int:
    """Be the worker until a signal ends it; does not return unless it cannot start.

    Args:
        config: the settings.
        incarnation: as the nanny passed it.
        vitals: answering already.
        prepared: for these settings.
    """
    outlet = configure_logging(
        level=config.log_level, context={} if incarnation is None else {"incarnation": incarnation}
    )
    agent = Agent(config, prepared, prepared.identity.in_life(incarnation), vitals, outlet)
    loop = prepared.loop
    asyncio.set_event_loop(loop)
    try:
        agent.load_plugins()
        vitals.watch_loop(loop)
        loop.run_until_complete(agent.serve())
    except OSError as error:
        outlet.close(_LOG_GRACE_S)
        sys.stderr.write(f"node-agent: cannot start: {error}\n")
        return 1
    vitals.unwatch_loop()
    vitals.stop()
    outlet.close(_LOG_GRACE_S)
    return _leave()


class Agent:
    """What one run of the program holds."""

    def __init__(
        self,
        config: AgentConfig,
        prepared: Prepared,
        identity: Identity,
        vitals: Vitals,
        outlet: LogOutlet,
    ) -> None:
        self._config = config
        self._identity = identity
        self._vitals = vitals
        self._outlet = outlet
        self._log = structlog.get_logger()
        self._pool = prepared.pool
        self._collector = Collector(
            CollectorConfig(
                interval_s=config.sample_interval_s,
                probe_deadline_s=config.probe_deadline_s,
                mounts=config.mounts,
                expected_gpu_uuids=config.expected_gpu_uuids,
            ),
            self._pool,
        )
        self._registration = RegistrationSource(config, identity, vitals.address)
        self._link = None if prepared.dialler is None else self._new_link(prepared.dialler)
        self._plugins: tuple[Service, ...] = ()
        self._plugins_failed: dict[str, str] = {}
        self._services: Services | None = None
        self._stop = asyncio.Event()

    def _new_link(self, dialler: Dialler) -> ServerLink:
        config = self._config
        return ServerLink(
            dialler,
            self._identity,
            self._registration.registration,
            Backoff(config.reconnect_initial_s, config.reconnect_ceiling_s),
            SessionConfig(hello_timeout_s=config.connect_timeout_s),
        )

    def load_plugins(self) -> None:
        """Import and make other people's services, which may block: before the loop turns."""
        config = self._config
        if config.plugins:
            context = PluginContext(
                self._identity.node_id,
                self._identity.node_name,
                self._identity.incarnation,
                self._vitals.expect,
            )
            with self._vitals.expect(_PLUGINS_LIMIT_S, "loading plugins"):
                loaded = load_plugins(
                    config.plugins, ("telemetry", "reports", "server-link", "nanny-watch"), context
                )
            self._plugins, self._plugins_failed = loaded.services, loaded.failed

    async def serve(self) -> None:
        """Run all services until a signal, or the loss of the nanny, ends them.

        Raises:
            OSError: what must be bound cannot be.
        """
        loop = asyncio.get_running_loop()
        for signum in _STOP_SIGNALS:
            loop.add_signal_handler(signum, self._begin_to_stop, signal.Signals(signum).name)
        loop.add_signal_handler(signal.SIGHUP, self._say_nothing_is_reloadable)
        reporter = Reporter(
            vitals=self._vitals,
            collector=self._collector,
            registration=self._registration,
            link=self._link,
            sample_interval_s=self._config.sample_interval_s,
            is_supervised_by_nanny=self._identity.incarnation is not None,
            more_metrics=self._metrics,
        )
        self._services = Services(self._vitals, self._chosen_services(reporter))
        async with AsyncExitStack() as stack:
            await self._pool.start()
            stack.push_async_callback(self._pool.close, _HELPERS_GRACE_S)
            stack.push_async_callback(self._collector.close)
            kernel_log = KernelLog(reporter.note)
            kernel_log.start()
            stack.callback(kernel_log.close)
            self._inject_faults(stack)
            self._log.info(
                "the agent runs",
                node=self._identity.node_name,
                node_id=self._identity.node_id,
                version=self._identity.software_version,
                health=self._vitals.address,
                server=self._config.server_url,
                pid=os.getpid(),
            )
            await self._services.run(self._stop, reporter.started)
        self._log.info("the agent has ended in order")

    def _chosen_services(self, reporter: Reporter) -> list[Service]:
        deadline_s = max(_SERVICE_DEADLINE_S, 3 * self._config.probe_deadline_s)
        services = [
            Service(name="telemetry", run=reporter.run_telemetry, deadline_s=deadline_s, critical=True),
            Service(name="reports", run=reporter.run_reports, deadline_s=deadline_s, critical=True),
        ]
        if self._link is not None:
            deadline_s = max(_SERVICE_DEADLINE_S, 4 * self._config.connect_timeout_s)
            services.append(
                Service(name="server-link", run=self._link.run, deadline_s=deadline_s, critical=True)
            )
        if self._config.orphan_timeout_s is not None and self._identity.incarnation is not None:
            watch = NannyWatch(
                self._vitals, self._config.orphan_timeout_s, lambda: self._begin_to_stop("orphaned")
            )
            services.append(Service(name="nanny-watch", run=watch.run, deadline_s=_SERVICE_DEADLINE_S))
        return [*services, *self._plugins]

    def _inject_faults(self, stack: AsyncExitStack) -> None:
        if not self._config.fault_injection or self._config.fault_socket is None:
            return
        address = self._vitals.address
        if isinstance(address, tuple) and not is_loopback(str(address[0])):
            self._log.error("faults are not injected: the health endpoints listen beyond loopback")
            return
        stack.callback(FaultInjection(self._config.fault_socket, self._vitals).close)

    def _begin_to_stop(self, why: str) -> None:
        if self._stop.is_set():
            return
        self._log.info("the agent is stopping", why=why)
        loop = asyncio.get_running_loop()
        for signum in _STOP_SIGNALS:
            loop.remove_signal_handler(signum)
            signal.signal(signum, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, self._config.stop_timeout_s)
        self._vitals.stopping()
        self._stop.set()

    def _say_nothing_is_reloadable(self) -> None:
        self._log.warning("SIGHUP: no setting of the agent can change while it runs; restart it")

    def _metrics(self) -> str:
        return agent_metrics(
            services={} if self._services is None else self._services.records,
            link=self._link,
            log_lines_dropped=self._outlet.dropped_total,
            plugins_failed=len(self._plugins_failed),
        )


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415  # absent where there is no wheel of it
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _leave() -> NoReturn:
    """End without joining threads: a plugin's executor thread that hangs would be waited for without end."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)
