"""The server's log: lines of JSON, and no harm where nobody reads them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support.processes import spawn_python

if TYPE_CHECKING:
    import pytest


def test_a_line_is_json_with_what_is_bound(capsys: pytest.CaptureFixture[str]) -> None:
    from server_stub.log import configure

    configure("info", insecure_bind="yes").warning("something", node="n1")

    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"], line["node"], line["insecure_bind"]) == (
        "something",
        "warning",
        "n1",
        "yes",
    )


def test_a_log_that_nobody_reads_raises_nothing() -> None:
    code = """
import contextlib, os, sys
from server_stub.log import configure
reader, writer = os.pipe()
os.dup2(writer, 2)
os.close(reader), os.close(writer)
log = configure("info")
log.info("into a broken pipe")
with contextlib.suppress(OSError):  # what it could not write before
    sys.stderr.close()
try:
    raise LookupError("x")
except LookupError:
    log.exception("into a closed stream")
print("still here", flush=True)
"""
    with spawn_python(code) as process:
        assert process.read_line(60.0) == "still here"
