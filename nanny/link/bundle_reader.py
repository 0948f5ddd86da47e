"""An evidence bundle as a gzipped tar on stdout: `python -I -m nanny.link.bundle_reader STATE_DIR RUNTIME_DIR NAME`.

A process of its own, since the disk that the bundle lies on may hang, and link must not. Only plain files directly
in a bundle are read, and no link is followed (`nanny.evidence.listing`). Exit codes: 0 all of it was written, 1 not,
with the reason on stderr.
"""

from __future__ import annotations

import io
import sys
import tarfile

from nanny.errors import HostError
from nanny.evidence import listing


def main(argv: list[str]) -> int:
    """Write the bundle; gives the exit code."""
    state_dir, runtime_dir, name = argv
    try:
        files = listing.list_files(state_dir, runtime_dir, name)
        with tarfile.open(fileobj=sys.stdout.buffer, mode="w|gz") as tar:
            for file_name, _ in files:
                content = listing.read_file(state_dir, runtime_dir, name, file_name)
                entry = tarfile.TarInfo(f"{name}/{file_name}")
                entry.size, entry.mode = len(content), 0o640
                tar.addfile(entry, io.BytesIO(content))
        sys.stdout.buffer.flush()
    except (HostError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
