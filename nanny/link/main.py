"""Link, wired: `python -m nanny.link.main [--config FILE] [--key value …]`, a process of its own without privileges.

Order: settings, log, /metrics, the nanny's control socket (READY=1 upwards once that works, whether or not there is a
server), then the server. WATCHDOG=1 goes up from the event loop at a third of its interval, so a hung loop is
replaced. Any part that ends ends all, and whoever started link starts the next. Exit codes: 0 told to end, 1 an error
or no nanny for too long, 78 (EX_CONFIG) settings that can't be used. sd_notify(3).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final, NoReturn

from nanny.common.settings import ConfigError
from nanny.common.settings_loading import load
from nanny.common.settings_reference import add_flags, flags_from, unknown_flags
from nanny.link import metrics
from nanny.link.bridge import Bridge
from nanny.link.bundle_upload import BundleUploads
from nanny.link.config import DEFAULT_FILE, FOREIGN_VARIABLES, PREFIX, LinkConfig, check
from nanny.link.connection import ServerConnection
from nanny.link.control_client import ControlClient
from nanny.link.counters import Counters
from nanny.link.identity import machine_id
from nanny.link.log import LogThread, open_log
from nanny.link.metrics_server import MetricsServer
from nanny.linux.systemd_notify import SystemdNotifier, watchdog_interval_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nanny.common.log_lines import LogLines

EX_CONFIG: Final = 78
SCRAPE_TIMEOUT_S: Final = 1.0
STOP_TIMEOUT_S: Final = 0.8
_STATUS_INTERVAL_S: Final = 0.2


class Orphaned(Exception):  # noqa: N818  (a state of things)
    """There has been no nanny for as long as the settings allow."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run link until SIGTERM."""
    try:
        config = read_settings(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        sys.stderr.write(f"link: {error}\n")
        sys.exit(EX_CONFIG)
    thread = LogThread()
    log = open_log(thread, config.log_level)
    code = 0
    try:
        asyncio.new_event_loop().run_until_complete(serve(config, log, thread))
    except Exception as error:
        code = 1
        causes = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
        log.error("link failed", why="; ".join(map(repr, causes)))  # noqa: TRY400  (these lines have no traceback)
    thread.close()
    # Not sys.exit: it would wait for a thread that hangs in a name look-up.
    os._exit(code)


def read_settings(argv: Sequence[str]) -> LinkConfig:
    """Give the settings that file, environment and flags add up to.

    Raises:
        ConfigError: they cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="python -m nanny.link.main",
        description="Carries commands and outcomes between the server and the nanny.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"link {_version()}")
    parser.add_argument("--config", metavar="FILE", help=f"settings file (LINK_CONFIG; {DEFAULT_FILE})")
    add_flags(parser, LinkConfig)
    options, unknown = parser.parse_known_args(argv)
    path = options.config or os.environ.get("LINK_CONFIG")
    if path is None and os.path.exists(DEFAULT_FILE):
        path = DEFAULT_FILE
    return load(
        LinkConfig,
        prefix=PREFIX,
        environ=os.environ,
        flags=flags_from(options, LinkConfig) | unknown_flags(unknown, parser),
        toml_path=path,
        check=check,
        foreign_variables=FOREIGN_VARIABLES,
    ).config


async def serve(config: LinkConfig, log: LogLines, log_thread: LogThread) -> None:
    """Run link until SIGTERM or SIGINT.

    Raises:
        Orphaned: there was no nanny for too long.
    """
    notifier = SystemdNotifier(os.environ.get("NOTIFY_SOCKET"))
    counters = Counters()
    bridge = Bridge(config, machine_id(), _version(), counters, log)
    bridge.nanny = ControlClient(
        config.control_socket,
        on_connected=bridge.nanny_connected,
        on_push=bridge.nanny_pushed,
        on_lost=bridge.nanny_lost,
        counters=counters,
        log=log,
    )
    if config.server_url is not None:
        bridge.server = ServerConnection(
            config,
            hello=bridge.hello,
            on_established=bridge.server_established,
            on_message=bridge.server_said,
            counters=counters,
            log=log,
        )
        bridge.uploads = BundleUploads(config, bridge.server.tls, log)

    async def scrape() -> str:
        return metrics.render(
            await bridge.fresh_status(SCRAPE_TIMEOUT_S),
            counters,
            is_server_connected=bridge.server is not None and bridge.server.is_open,
            orders_held=len(bridge.orders),
            log_lines_dropped=log_thread.dropped_total,
        )

    async def work() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(bridge.nanny.run(), name="nanny")
            tasks.create_task(bridge.run(), name="bridge")
            tasks.create_task(_tell_upwards(bridge, notifier, config), name="notify")
            interval_s = watchdog_interval_s(os.environ)
            if interval_s is not None:
                tasks.create_task(_beat(notifier, interval_s / 3), name="beat")
            if config.metrics_port is not None:
                served = MetricsServer(
                    config.metrics_host, config.metrics_port, config.metrics_port_file, scrape, log
                )
                tasks.create_task(served.run(), name="metrics")
            if bridge.server is not None:
                # Who we are comes from the nanny: without that there is nobody to say Hello for.
                await bridge.is_known.wait()
                tasks.create_task(bridge.server.run(), name="server")

    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    log.info("link started", version=_version(), pid=os.getpid(), server=config.server_url)
    working = asyncio.create_task(work(), name="link")
    stopped = asyncio.create_task(stop.wait(), name="stop signal")
    await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    notifier.stopping()
    if working.done():
        stopped.cancel()
        working.result()
    working.cancel()
    if bridge.uploads is not None:
        bridge.uploads.cancel()
    await asyncio.wait({working}, timeout=STOP_TIMEOUT_S)
    log.info("link ended")


async def _beat(notifier: SystemdNotifier, interval_s: float) -> None:
    while True:
        notifier.watchdog()
        await asyncio.sleep(interval_s)


async def _tell_upwards(bridge: Bridge, notifier: SystemdNotifier, config: LinkConfig) -> None:
    """READY=1 at the first connection to the nanny, STATUS when it changes, an end when orphaned."""
    told, is_ready = "", False
    while True:
        if bridge.nanny.connected.is_set() and not is_ready:
            is_ready = True
            notifier.ready()
        nanny = "nanny reachable" if bridge.nanny.connected.is_set() else "nanny unreachable"
        if bridge.server is None:
            text = f"{nanny}, no server configured"
        else:
            text = f"{nanny}, server {'connected' if bridge.server.is_open else 'not connected'}"
        if text != told:
            notifier.status(text)
            told = text
        lost_s = bridge.nanny_lost_s
        if config.orphan_timeout_s is not None and lost_s is not None and lost_s >= config.orphan_timeout_s:
            raise Orphaned(f"no nanny for {lost_s:.1f} s")
        await asyncio.sleep(_STATUS_INTERVAL_S)


def _version() -> str:
    try:
        return version("nodenanny")
    except PackageNotFoundError:
        return "0+source"


if __name__ == "__main__":
    main()
