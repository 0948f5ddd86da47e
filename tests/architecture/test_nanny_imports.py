"""What the supervising process loads and weighs: an allow-list, since it has to live when nothing else does.

Every module here is one that a code path of the last thing standing may execute, and memory on every node.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.real_nanny import RealNanny, real_node

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS_PYTHON = "/usr/bin/python3"
BOUND_KIB = 18 * 1024
"""Holds on both interpreters below; the target is 15 MiB, and what is measured is printed."""

ALLOWED = frozenset(
    (
        "__future__",
        "__main__",
        "abc",
        "array",
        "builtins",
        "codecs",
        "collections",
        "collections.abc",
        "contextlib",
        "copy",
        "copyreg",
        "dataclasses",
        "encodings",
        "encodings.aliases",
        "encodings.ascii",
        "encodings.utf_8",
        "enum",
        "errno",
        "fcntl",
        "functools",
        "genericpath",
        "importlib",
        "importlib._bootstrap",
        "importlib._bootstrap_external",
        "inspect",
        "io",
        "itertools",
        "json",
        "json.decoder",
        "json.encoder",
        "json.scanner",
        "keyword",
        "marshal",
        "math",
        "operator",
        "os",
        "os.path",
        "posix",
        "posixpath",
        "re",
        "re._casefix",
        "re._compiler",
        "re._constants",
        "re._parser",
        "reprlib",
        "resource",
        "select",
        "selectors",
        "signal",
        "socket",
        "stat",
        "struct",
        "sys",
        "time",
        "traceback",
        "types",
        "typing",
        "typing.io",
        "typing.re",
        "warnings",
        "weakref",
        "zipimport",
        "zlib",
    )
)
"""Of the standard library, names of C accelerators (a leading underscore) aside. ``inspect`` is a stand-in."""

FOR_HELPERS_ONLY = ("nanny.link.", "nanny.cli", "nanny.config", "nanny.nannyctl", "nanny.common.settings")

_LIST = """
import sys
sys.path.insert(0, sys.argv[1])
import nanny.lean_start as lean
sys.modules.setdefault("inspect", lean.NotYetLoaded("inspect"))
import nanny.main
import json
print(json.dumps(sorted(sys.modules)), type(sys.modules["inspect"]).__name__, sep="\\n")
"""


def loaded() -> tuple[list[str], str]:
    """The modules of the lean process right after its imports; and what stands for ``inspect``."""
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _LIST, str(ROOT)],
        capture_output=True,
        check=True,
        text=True,
        timeout=30,
    )
    names, stand_in = run.stdout.splitlines()
    return json.loads(names), stand_in


def test_the_supervising_process_loads_nothing_but_what_is_listed() -> None:
    names, stand_in = loaded()
    foreign = {name for name in names if not name.startswith(("nanny", "_"))} - ALLOWED
    assert foreign == set()
    assert stand_in == "NotYetLoaded", "inspect, ast, dis and tokenize are loaded in earnest"


def test_the_supervising_process_loads_no_program_of_its_helpers() -> None:
    names, _ = loaded()
    assert [name for name in names if name.startswith(FOR_HELPERS_ONLY)] == []
    assert "ctypes" not in names


@pytest.fixture
def node(leaves_nothing_behind: None) -> Iterator[RealNanny]:
    with real_node() as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("interpreter", [sys.executable, DISTRIBUTIONS_PYTHON])
def test_a_nanny_at_work_weighs_little(node: RealNanny, interpreter: str) -> None:
    if not os.access(interpreter, os.X_OK) or _version(interpreter) != sys.version_info[:2]:
        pytest.skip(f"{interpreter} is not the interpreter to measure with")
    command = node.command("import time; time.sleep(600) # _notify", "--heartbeat=none", "--port=0")
    command[0] = interpreter
    node.command = lambda *_: command  # type: ignore[method-assign]
    node.start(environ={"PYTHONPATH": str(ROOT)})
    status = node.wait_for_phase("running")
    wait_until(lambda: node.workers() == [status["worker"]["pid"]], 10, "the worker's exec")
    time.sleep(0.5)
    weight = {name: _kib(node.pid, name) for name in ("Rss", "Pss", "Anonymous")}
    print(f"\n{interpreter}: " + ", ".join(f"{name} {kib / 1024:.1f} MiB" for name, kib in weight.items()))
    assert weight["Rss"] < BOUND_KIB
    # No library that was loaded on the way stays mapped: TLS, asyncio's, ctypes' foreign functions.
    maps = Path(f"/proc/{node.pid}/maps").read_text()
    assert [name for name in ("libssl", "_asyncio", "_ctypes", "_hashlib", "uvloop") if name in maps] == []


@pytest.mark.slow
def test_a_nanny_with_nothing_to_do_takes_no_processor(node: RealNanny) -> None:
    node.start("import time; time.sleep(600) # _notify", "--heartbeat=none", "--port=0")
    node.wait_for_phase("running")
    time.sleep(0.5)
    before = _cpu_ticks(node.pid)
    time.sleep(5)
    used_s = (_cpu_ticks(node.pid) - before) / os.sysconf("SC_CLK_TCK")
    print(f"\nidle: {used_s / 5:.2%} of a processor")
    assert used_s <= 0.02


def _version(interpreter: str) -> tuple[int, ...]:
    told = subprocess.run(
        [interpreter, "-c", "import sys; print(*sys.version_info[:2])"],
        capture_output=True,
        check=True,
        text=True,
    )
    return tuple(map(int, told.stdout.split()))


def _kib(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise AssertionError(name)


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
