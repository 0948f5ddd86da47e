"""The program as a package would install it: a virtual environment under /opt/nodenanny, made by the box's own Python.

The wheel of the checkout is built; what it needs comes from this environment's own installed packages, packed into
wheels again, since a box has no network and its tests shall need none. They are compiled for this interpreter, so it
must be of the box's minor version. Files of the system (units, users, directories) are laid out by `node.py`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

from tests.systemd.box import one_shot

CHECKOUT = Path(__file__).parents[2]
PREFIX = "/opt/nodenanny"
BOX_PYTHON = (3, 11)
"""Of Debian 12."""


def why_not() -> str:
    """Why this environment's packages can't be installed in a box; empty if they can."""
    if sys.version_info[:2] != BOX_PYTHON:
        return "the box's Python is {}.{}, this one is {}.{}".format(*BOX_PYTHON, *sys.version_info)
    return ""


def install(directory: Path) -> Path:
    """Install the checkout; gives the directory to bind at `PREFIX`."""
    wheels, prefix = directory / "wheels", directory / "prefix"
    wheels.mkdir()
    prefix.mkdir()
    for name in _locked_names():
        _pack(metadata.distribution(name), wheels)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True)
    one_shot(
        f"python3 -m venv {PREFIX}; "
        f"{PREFIX}/bin/pip install --quiet --disable-pip-version-check --no-index --find-links /wheels "
        "'nodenanny[server]'",
        "--bind-rw", f"{prefix}:{PREFIX}", "--bind", f"{wheels}:/wheels",
    )  # fmt: skip
    return prefix


def _locked_names() -> list[str]:
    """What the lock file of the runtime names and this environment has."""
    locked = re.findall(r"^([A-Za-z0-9._-]+)==", (CHECKOUT / "requirements.lock").read_text(), re.MULTILINE)
    present = {re.sub(r"[-_.]+", "-", one.name).lower() for one in metadata.distributions()}
    return [name for name in locked if name in present]


def _pack(distribution: metadata.Distribution, wheels: Path) -> None:
    """Pack an installed distribution into a wheel; what lies outside of site-packages is made anew by pip."""
    tag = re.search(r"^Tag: (.+)$", distribution.read_text("WHEEL") or "", re.MULTILINE)
    assert tag is not None, distribution.name
    name = re.sub(r"[-_.]+", "_", distribution.name)
    with zipfile.ZipFile(wheels / f"{name}-{distribution.version}-{tag[1]}.whl", "w") as wheel:
        for path in distribution.files or []:
            if ".." not in path.parts and path.suffix != ".pyc" and path.name != "direct_url.json":
                wheel.write(str(path.locate()), str(path))
