"""Builds the stand-in libnvidia-ml.so.1 of tests/agent/fake_nvml: what it does is said by a file, read at each call.

Put its folder into LD_LIBRARY_PATH and the file's path into the variable CONTROL; the unmodified bindings load it by
its soname. Needs a C compiler.
"""

import shutil
import subprocess
from pathlib import Path

CONTROL = "NVML_FAKE_CONTROL"
SOURCE = Path(__file__).parents[1] / "agent" / "fake_nvml" / "fake_nvml.c"
_FLAGS = ("-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libnvidia-ml.so.1")


def why_no_fake_nvml() -> str | None:
    """Give the reason why it can't be built, None if it can."""
    return None if _compiler() else "no C compiler to build the stand-in libnvidia-ml.so.1"


def build_fake_nvml(folder: Path) -> None:
    """Put the library into an existing folder."""
    compiler = _compiler()
    assert compiler is not None, why_no_fake_nvml()
    library = str(folder / "libnvidia-ml.so.1")
    subprocess.run([compiler, *_FLAGS, "-o", library, str(SOURCE)], check=True, timeout=60)


def set_mode(control: Path, mode: str) -> None:
    """Say what the library does from now on; at once, as a call that spins may be reading the file."""
    fresh = control.with_suffix(".fresh")
    fresh.write_text(mode)
    fresh.replace(control)


def _compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
