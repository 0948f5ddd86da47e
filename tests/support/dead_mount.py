"""A file system whose server never answers: whoever touches it hangs, and SIGKILL doesn't end it.

A FUSE mount, answered up to INIT by a separate process that then only reads. Its death frees every waiter, so a
test always cleans up. Needs root and /dev/fuse. See mount(2) and Linux's filesystems/fuse.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import spawn_python

SERVER = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
target = sys.argv[1].encode()
device = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
if libc.mount(b"dead", target, b"fuse", 6, options) != 0:
    print("mount:", os.strerror(ctypes.get_errno()), flush=True)
    sys.exit(1)
request = os.read(device, 1 << 20)
unique = struct.unpack_from("<Q", request, 8)[0]
# fuse_init_out of 7.31: major, minor, max_readahead, flags, max_background, congestion, max_write, rest zero
body = struct.pack("<IIIIHHI", 7, 31, 65536, 0, 12, 9, 65536).ljust(64, b"\\0")
os.write(device, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)
print("ready", flush=True)
while True:
    os.read(device, 1 << 20)
"""


def why_no_dead_mount() -> str | None:
    """Give the reason why this machine can't have one, None if it can."""
    if os.geteuid() != 0:
        return "needs root to mount"
    return None if os.access("/dev/fuse", os.R_OK | os.W_OK) else "there is no usable /dev/fuse"


@contextmanager
def dead_mount(directory: Path) -> Iterator[Path]:
    """Mount a silent file system on `directory`; at the end its waiters are freed and it is gone."""
    directory.mkdir()
    try:
        with spawn_python(SERVER, argv=(str(directory),)) as server:
            assert server.read_line() == "ready"
            yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=False, capture_output=True)
