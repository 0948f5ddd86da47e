"""`nanny/common/` is a small leaf and no drawer: few files, importing nothing of ours from outside it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for path in (ROOT / "nanny" / "common").glob("*.py") if path.name != "__init__.py")
HEAVY = {
    "argparse",
    "asyncio",
    "difflib",
    "hashlib",
    "logging",
    "re",
    "shlex",
    "ssl",
    "subprocess",
    "tomllib",
}


def imported_by(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            yield node.module or ""


def test_there_are_at_most_six_subjects() -> None:
    """A subject may have files of its own: settings, how they are loaded, what is said of them."""
    subjects = {path.stem.partition("_")[0] for path in FILES}

    assert 0 < len(subjects) <= 6, sorted(subjects)
    assert len(FILES) <= 8, [path.name for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_imports_the_standard_library_and_its_neighbours_alone(path: Path) -> None:
    strangers = [
        name
        for name in imported_by(path)
        if name.partition(".")[0] not in sys.stdlib_module_names | {"__future__", "_typeshed"}
        and not name.startswith("nanny.common.")
    ]

    assert strangers == []


@pytest.mark.parametrize("module", ["settings", "log_lines", "backoff", "identifiers"])
def test_what_the_nanny_loads_brings_nothing_heavy_along(module: str) -> None:
    script = (
        "import dataclasses, json, sys; before = set(sys.modules); "
        f"import nanny.common.{module}; print(*(set(sys.modules) - before))"
    )

    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert HEAVY.isdisjoint(loaded.stdout.split())
