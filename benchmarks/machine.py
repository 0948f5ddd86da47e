"""On what and when it was measured: figures without their machine are worth nothing. proc(5)."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def machine() -> dict[str, Any]:
    """CPU, cores, kernel, Python, load, commit, date, versions of what matters."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1_min": round(os.getloadavg()[0], 2),
        "commit": _commit(),
        "versions": {
            name: found
            for name in ("circus", "distributed", "gunicorn", "supervisor", "uvloop")
            if (found := _version(name))
        },
    }


def described(found: dict[str, Any]) -> str:
    """The same in one line."""
    return (
        f"{found['cpu']}, {found['cores']} cores, {found['memory_gib']} GiB, Linux {found['kernel']}, "
        f"Python {found['python']}, load {found['load_1_min']}, {found['commit']}, {found['date']}"
    )


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    if shutil.which("git") is None:
        return "unknown commit"

    def said(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=20
        )
        return done.stdout.strip()

    commit = said("rev-parse", "--short=10", "HEAD") or "unknown commit"
    is_changed = said("status", "--porcelain", "--untracked-files=no", "--", "nanny", "agent", "server_stub")
    return f"{commit} with changes" if is_changed else commit


def _version(name: str) -> str:
    with suppress(PackageNotFoundError):
        return version(name)
    return ""
