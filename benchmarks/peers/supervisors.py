"""The supervisors that are compared, each as its own documentation says, with its default delays.

A `Supervisor` is started in a folder of its own with a port and an address for announcements; what runs under it is
the tiny worker, but where a supervisor runs only its own kind of worker (gunicorn, Dask). Those that are not
installed say so. Killing, stopping and measuring is `benchmarks.peers.contest`'s.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.figures import OURS
from benchmarks.nodes import COLD, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

HANG_TIMEOUT_S: Final = 2.0
"""Of those that can notice a hung worker, set alike."""
_HERE: Final = Path(__file__).parent
_BIN: Final = Path(sys.executable).parent
_CANNOT: Final = "cannot (waited for three time-outs)"


@dataclass(frozen=True, slots=True)
class Setting:
    """Where one contestant runs."""

    folder: Path
    port: int
    announce: str
    scheduler: str = ""
    """Of Dask's contestants."""

    @property
    def worker(self) -> list[str]:
        """The tiny worker's command line."""
        return [sys.executable, "-I", "-S", str(_HERE / "tiny_worker.py"), str(self.port), self.announce]


@dataclass(frozen=True, slots=True)
class Supervisor:
    """One contestant."""

    name: str
    program: str
    """Looked for beside our Python, then in PATH."""
    prepare: Callable[[Setting], list[str]]
    """Writes what it needs into the folder; gives its arguments."""
    hang: str = _CANNOT
    """What is said where a stopped worker is not noticed; empty where it is."""
    asks_http: bool = True
    """Whether its worker answers HTTP; else a connection is all that is asked for."""

    def found(self) -> str | None:
        """The program's path; None if it is not installed."""
        beside = _BIN / self.program
        return str(beside) if beside.exists() else shutil.which(self.program)


def _nanny_flags(setting: Setting) -> list[str]:
    (
        setting.folder / "none.toml"
    ).touch()  # what is installed on this machine is not this node's configuration
    settings = {
        **COLD,
        "config": f"{setting.folder}/none.toml",
        "runtime-dir": f"{setting.folder}/run",
        "state-dir": f"{setting.folder}/state",
        "node-name": "bench",
        "heartbeat-interval-s": "0.5",
        "heartbeat-timeout-s": str(HANG_TIMEOUT_S),
        "stall-warn-s": "1",
        "stall-timeout-s": str(HANG_TIMEOUT_S),
        "stable-after-s": "0.3",
    }
    return ["run", *(f"--{key}={value}" for key, value in settings.items())]


def _nanny(setting: Setting) -> list[str]:
    return [*_nanny_flags(setting), f"--port={setting.port}", "--", *setting.worker]


def _nanny_with_dask(setting: Setting) -> list[str]:
    recipe = str(Path(ROOT) / "docs" / "recipes" / "dask_preload.py")
    return [
        *_nanny_flags(setting),
        "--",
        str(_BIN / "dask"),
        *_dask(setting, "--no-nanny", "--preload", recipe),
    ]


def _dask(setting: Setting, *more: str) -> list[str]:
    return [
        *("worker", *more, "--preload", str(_HERE / "announcing.py"), "--nthreads", "1", "--no-dashboard"),
        *(
            "--worker-port",
            str(setting.port),
            "--local-directory",
            str(setting.folder / "dask"),
            setting.scheduler,
        ),
    ]


def _dasks_nanny(setting: Setting) -> list[str]:
    return _dask(setting, "--nanny", "--nworkers", "1")


def _run_script(setting: Setting) -> list[str]:
    service = setting.folder / "service"
    service.mkdir()
    script = service / "run"
    script.write_text("#!/bin/sh\nexec " + " ".join(setting.worker) + "\n")
    script.chmod(0o755)
    return [str(service)]


def _supervisord(setting: Setting) -> list[str]:
    path = setting.folder / "supervisord.conf"
    path.write_text(
        "[supervisord]\nnodaemon=true\n"
        f"logfile={setting.folder}/log\npidfile={setting.folder}/pid\nchildlogdir={setting.folder}\n"
        f"[program:worker]\ncommand={' '.join(setting.worker)}\n"
    )
    return ["-n", "-c", str(path)]


def _circusd(setting: Setting) -> list[str]:
    path = setting.folder / "circus.ini"
    worker = setting.worker
    path.write_text(
        f"[circus]\nendpoint = ipc://{setting.folder}/endpoint\n"
        f"pubsub_endpoint = ipc://{setting.folder}/pubsub\n"
        f"[watcher:worker]\ncmd = {worker[0]}\nargs = {' '.join(worker[1:])}\ncopy_env = True\n"
    )
    return [str(path)]


def _gunicorn(setting: Setting) -> list[str]:
    return [
        *("--config", str(_HERE / "announcing.py"), "--chdir", str(_HERE), "--workers", "1"),
        *("--timeout", str(int(HANG_TIMEOUT_S)), "--bind", f"127.0.0.1:{setting.port}", "announcing:app"),
    ]


TINY: Final = (
    Supervisor(OURS, "nanny", _nanny, hang=""),
    Supervisor("runit (runsv)", "runsv", _run_script),
    Supervisor("s6 (s6-supervise)", "s6-supervise", _run_script),
    Supervisor("supervisord", "supervisord", _supervisord),
    Supervisor("circus", "circusd", _circusd),
    Supervisor("gunicorn (its own worker)", "gunicorn", _gunicorn, hang=""),
)
DASK: Final = (
    Supervisor(OURS, "nanny", _nanny_with_dask, hang="", asks_http=False),
    Supervisor(
        "Dask's nanny",
        "dask",
        _dasks_nanny,
        hang="cannot; its scheduler can, once its worker-ttl (5 min) has passed",
        asks_http=False,
    ),
)


def environment(setting: Setting) -> dict[str, str]:
    """For all of them."""
    return {
        "BENCHMARK_ANNOUNCE": setting.announce,
        "PYTHONPATH": ROOT,
        "HOME": str(setting.folder),
        "PATH": f"{_BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
