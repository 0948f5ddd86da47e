"""One target in a process of its own under atheris: ``python -m tests.fuzz.one_target NAME SCRATCH [libFuzzer flags]``.

Only our own modules are instrumented. libFuzzer ends the process itself, so whoever starts it removes the scratch
directory. Exit status 0: nothing found; 77: a finding, 70: an input that took too long or too much memory.
Atheris: https://github.com/google/atheris, flags: https://llvm.org/docs/LibFuzzer.html
"""

import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Fuzz until a flag of libFuzzer's ends it."""
    import atheris

    name, scratch, *flags = sys.argv[1:]
    # The packages themselves are imported here, their modules by the target.
    from tests.fuzz.registry import TARGETS
    from tests.fuzz.target import Scratch

    with atheris.instrument_imports(include=["nanny", "agent", "server_stub"]):
        run = TARGETS[name].make(Scratch(Path(tempfile.mkdtemp(dir=scratch))))
    atheris.Setup([sys.argv[0], *flags], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
