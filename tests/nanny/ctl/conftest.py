"""nannyctl run as a process of its own, as an operator runs it, against a real node."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from tests.support.nodes import RunningNanny, running_nanny
from tests.support.processes import StartedProcess

Ctl = Callable[..., "subprocess.CompletedProcess[str]"]
Background = Callable[..., AbstractContextManager[StartedProcess]]


def _argv(node: RunningNanny | str, arguments: tuple[str, ...]) -> list[str]:
    runtime_dir = node if isinstance(node, str) else node.runtime_dir
    return [sys.executable, "-m", "nanny.nannyctl", *arguments, "--runtime-dir", runtime_dir]


def _environ(more: Mapping[str, str] | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NANNY_")}
    return {**kept, "NO_COLOR": "1", **(more or {})}


@pytest.fixture
def ctl() -> Ctl:
    """Runs nannyctl to its end; `environ` adds variables."""

    def run(
        node: RunningNanny | str, *arguments: str, environ: Mapping[str, str] | None = None, **popen_kw: Any
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            _argv(node, arguments),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env=_environ(environ),
            **popen_kw,
        )

    return run


@pytest.fixture
def ctl_running() -> Background:
    """A context manager: nannyctl running while something else happens."""

    @contextmanager
    def run(node: RunningNanny, *arguments: str, stderr: int = subprocess.STDOUT) -> Iterator[StartedProcess]:
        popen = subprocess.Popen(
            _argv(node, arguments), stdout=subprocess.PIPE, stderr=stderr, env=_environ(None)
        )
        started = StartedProcess(popen, os.pidfd_open(popen.pid))
        try:
            yield started
        finally:
            if popen.poll() is None:
                popen.kill()
            popen.wait(timeout=10)
            assert popen.stdout is not None
            popen.stdout.close()
            os.close(started.pidfd)

    return run


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNanny]:
    """One node for the tests of a module; each leaves it running, or says so."""
    with running_nanny() as running:
        running.wait_for_phase("running")
        yield running


def answer(done: "subprocess.CompletedProcess[str]") -> Any:
    """The JSON that nannyctl wrote."""
    assert done.stdout, f"no answer; exit code {done.returncode}, {done.stderr}"
    return json.loads(done.stdout)
