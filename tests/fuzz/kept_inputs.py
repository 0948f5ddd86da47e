"""Which new inputs are worth keeping: few, small, and each reaches lines of ours that the others do not.

Measured by a trace of lines, not by the fuzzer's own features, which change with every version. Only for people who
extend the corpus (``python -m tests.fuzz --keep``).
"""

import hashlib
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz.target import CORPUS, Scratch, Target

LIMIT_BYTES = 1500
"""Of all kept inputs that a target did not begin with."""
_OURS = ("/nanny/", "/agent/", "/server_stub/")

Arc = tuple[str, int, int]


def keep(target: Target, new: Path) -> list[Path]:
    """Copy what is worth it from `new` into the corpus; the files that were added."""
    with tempfile.TemporaryDirectory(prefix="fz") as folder, Scratch(Path(folder)) as scratch:
        run = target.make(scratch)
        reached: set[Arc] = set()
        for path in target.inputs():
            reached |= _reached(run, path.read_bytes())
        added, size = [], 0
        for path in sorted(new.iterdir(), key=lambda one: (one.stat().st_size, one.name)):
            given = path.read_bytes()
            arcs = _reached(run, given)
            if arcs <= reached or size + len(given) > LIMIT_BYTES:
                continue
            reached |= arcs
            size += len(given)
            place = CORPUS / target.name / hashlib.sha256(given).hexdigest()[:12]
            place.write_bytes(given)
            added.append(place)
    return added


def _reached(run: Any, given: bytes) -> set[Arc]:
    arcs: set[Arc] = set()

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        name = frame.f_code.co_filename
        if not any(part in name for part in _OURS) or "/site-packages/" in name:
            return None
        before = frame.f_lineno if event == "call" else 0

        def line(inner: FrameType, happened: str, _told: Any) -> Any:
            nonlocal before
            if happened == "line":
                arcs.add((name, before, inner.f_lineno))
                before = inner.f_lineno
            return line

        return line

    sys.settrace(trace)
    try:
        run(given)
    finally:
        sys.settrace(None)
    return arcs
