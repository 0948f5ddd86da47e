"""How much memory is available, as the kernel says it, and where it does not."""

from pathlib import Path

import pytest

from nanny.errors import HostError
from nanny.linux import meminfo


def test_the_machines_own_figure_is_plausible() -> None:
    available = meminfo.available_bytes()
    assert available is not None
    assert 1 << 20 < available < 1 << 50


def test_it_is_in_bytes_and_none_where_the_kernel_does_not_say(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       8000 kB\nMemFree:  10 kB\nMemAvailable:    4000 kB\n")
    assert meminfo.available_bytes(str(tmp_path)) == 4000 * 1024
    (tmp_path / "meminfo").write_text("MemTotal:       8000 kB\n")
    assert meminfo.available_bytes(str(tmp_path)) is None


def test_an_unreadable_one_is_an_error_of_the_host(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        meminfo.available_bytes(str(tmp_path))
