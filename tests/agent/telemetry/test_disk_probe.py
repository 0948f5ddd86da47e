"""The probe of a file system's size: read-only is what the file system is, not how a sandbox shows it."""

import os
from pathlib import Path

import pytest

from agent.telemetry.probes import disk_usage, is_file_system_read_only

MOUNTS = """\
21 1 8:1 / / ro,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
22 21 8:2 / /data rw,relatime - ext4 /dev/sda2 ro
23 21 8:3 / /data/fast ro - xfs /dev/sda3 rw
24 21 8:4 / /with\\040blank rw - ext4 /dev/sda4 ro
25 21 8:5 / /covered rw - ext4 /dev/sda5 ro
26 25 8:6 / /covered rw - ext4 /dev/sda6 rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", False),
        ("/home", False),
        ("/data", True),
        ("/data/deep/down", True),
        ("/database", False),
        ("/data/fast", False),
        ("/with blank/x", True),
        ("/covered", False),
    ],
)
def test_the_superblock_decides(tmp_path: Path, path: str, expected: bool) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(MOUNTS)

    assert is_file_system_read_only(path, str(tmp_path)) is expected


def test_what_cant_be_told_counts_as_it_looks(tmp_path: Path) -> None:
    assert is_file_system_read_only("/", str(tmp_path / "nowhere"))


def test_this_machines_own_file_system_has_a_size_and_takes_writes(tmp_path: Path) -> None:
    told = disk_usage({"path": str(tmp_path)}, lambda _: None)

    assert told["total_bytes"] == os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize
    assert told["is_read_only"] is False
