"""``node-agent``: answers first, everything else afterwards.

    node-agent [run] [--key value …]
    node-agent check-config [--origins] [--json] [--key value …]
    node-agent --version

A killed worker counts as back when /livez answers. So where a supervisor passed the listening socket the vitals
thread starts before the settings are read, and the heavy imports come last. Exit codes: 0 ended in order, 1
cannot start, 78 (EX_CONFIG) the settings can't be used. This file imports nothing that costs time.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from agent.code_stamp import Comparison
    from agent.config import AgentConfig
    from agent.main import Prepared
    from agent.telemetry.probe_launch import LaunchedServer
    from agent.vitals.config import VitalsConfig
    from agent.vitals.thread import Vitals

_ASKING = frozenset({"check-config", "--version", "-h", "--help"})
_FIRST_SWITCH_S = 0.0001  # who has waited for a worker is answered while this one still gets up
_BURY_INTERVAL_S = 5.0
_IMPORT_LIMIT_S = 60.0  # from a cold disk over a busy network


def main(argv: list[str] | None = None) -> int:
    """Run the command line; gives the exit code, which ``run`` reports by ending the process."""
    words = list(sys.argv[1:] if argv is None else argv)
    if _ASKING.intersection(words):
        from agent.arguments import answer  # noqa: PLC0415

        return answer(words)
    from agent.vitals.config import claim_environ  # noqa: PLC0415
    from agent.vitals.stall_stack import enable_stack_dumps  # noqa: PLC0415

    enable_stack_dumps(os.environ)
    from agent.park import is_standby  # noqa: PLC0415

    if is_standby(os.environ):
        return _run_when_woken(words)
    claimed = claim_environ(os.environ)
    vitals = None
    if claimed.listener_fd is not None:
        from agent.vitals.thread import start_vitals  # noqa: PLC0415

        vitals = start_vitals(claimed)
    from agent.arguments import settings_of_words  # noqa: PLC0415

    config = settings_of_words(words)
    if isinstance(config, int):
        return config
    if vitals is None:
        vitals = _start_with_settings(claimed, config)
        if vitals is None:
            return 1
    else:
        _adjust(vitals, config)
    with vitals.expect(_IMPORT_LIMIT_S, "loading the program"):
        prepared = _prepare(config)
    if prepared is None:
        return 1
    from agent.main import run  # noqa: PLC0415

    return run(config, claimed.incarnation, vitals, prepared)


def _run_when_woken(words: list[str]) -> int:
    """Prepare a run that any life of this node's worker could be, and wait to be told which."""
    from agent.arguments import files_read, settings_of_words  # noqa: PLC0415

    config = settings_of_words(words)
    if isinstance(config, int):
        return config
    prepared = _prepare(config)
    if prepared is None:
        return 1
    # What a run would import late would be read from a disk that may be dead by then.
    import encodings.idna  # noqa: F401, PLC0415
    from dataclasses import replace  # noqa: PLC0415

    from agent.code_stamp import Comparison, code_stamp  # noqa: PLC0415
    from agent.main import run  # noqa: PLC0415
    from agent.park import wait_for_wake  # noqa: PLC0415
    from agent.vitals.config import claim_environ  # noqa: PLC0415
    from agent.vitals.thread import start_vitals  # noqa: PLC0415

    comparison = Comparison(code_stamp(files_read(words, config)))
    wait_for_wake(os.environ, comparison)
    _bury(prepared.loop, comparison)
    claimed = claim_environ(os.environ)
    if claimed.listener_fd is None:
        vitals = _start_with_settings(claimed, config)
        if vitals is None:
            return 1
    else:
        vitals = start_vitals(replace(claimed, switch_interval_s=_FIRST_SWITCH_S))
        _adjust(vitals, config)
        prepared.loop.call_soon(sys.setswitchinterval, claimed.switch_interval_s)
    return run(config, claimed.incarnation, vitals, prepared)


def _bury(loop: AbstractEventLoop, comparison: Comparison) -> None:
    """Wait for the child of a comparison that the wake has cut short, without waiting."""
    if not comparison.is_over():
        loop.call_later(_BURY_INTERVAL_S, _bury, loop, comparison)


def _adjust(vitals: Vitals, config: AgentConfig) -> None:
    vitals.adjust(
        stall_warn_s=config.stall_warn_s,
        stall_timeout_s=config.stall_timeout_s,
        expect_total_s=config.expect_limit_s,
        token=config.health_token,
    )


def _prepare(config: AgentConfig) -> Prepared | None:
    """Load the program and do what takes time; None, and the reason on stderr, if it cannot run."""
    # Its fork server is started while this process is small and has no event loop.
    from agent.telemetry.probe_launch import launch_probe_server  # noqa: PLC0415

    try:
        probe_server = launch_probe_server()
    except OSError:
        probe_server = None  # the pool starts one, and again as long as there is none
    prepare = _load_program()
    try:
        return prepare(config, probe_server)
    except OSError as error:
        print(f"node-agent: cannot start: {error}", file=sys.stderr)
        return None


def _load_program() -> Callable[[AgentConfig, LaunchedServer | None], Prepared]:
    """Do the heavy imports, a fifth faster: nothing is collected meanwhile, and structlog finds no rich.

    It would load it for coloured tracebacks, which no log of ours has; whoever wants rich later gets it.
    """
    import gc  # noqa: PLC0415

    threshold = gc.get_threshold()
    gc.set_threshold(0)  # not gc.disable(), which the vitals thread uses for itself
    hidden = {"rich": None} if "rich" not in sys.modules else {}
    sys.modules.update(hidden)  # type: ignore[arg-type]
    try:
        import structlog  # noqa: F401, PLC0415
    finally:
        for name in hidden:
            del sys.modules[name]
    from agent.main import prepare  # noqa: PLC0415

    gc.freeze()
    gc.set_threshold(*threshold)
    return prepare


def _start_with_settings(claimed: VitalsConfig, config: AgentConfig) -> Vitals | None:
    from dataclasses import replace  # noqa: PLC0415

    from agent.vitals.thread import start_vitals  # noqa: PLC0415

    listen = None if config.port is None else (config.host, config.port)
    wanted = replace(
        claimed,
        listen=listen,
        stall_warn_s=claimed.stall_warn_s if config.stall_warn_s is None else config.stall_warn_s,
        stall_timeout_s=claimed.stall_timeout_s if config.stall_timeout_s is None else config.stall_timeout_s,
        expect_total_s=config.expect_limit_s,
        token=config.health_token,
    )
    try:
        return start_vitals(wanted)
    except OSError as error:
        where = f"{config.host} port {config.port}"
        print(
            f"node-agent: cannot listen on {where}: {error.strerror}; --port 0 takes a free one",
            file=sys.stderr,
        )
        return None


if __name__ == "__main__":
    sys.exit(main())
