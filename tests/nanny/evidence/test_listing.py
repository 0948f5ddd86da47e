"""Names of bundles, and reading them: only bundles, only plain files, whatever is asked for."""

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanny.errors import HostError
from nanny.evidence.bundle_name import REASON_LIMIT, UNFINISHED, BundleName, bundle_name, parse_name, slug
from nanny.evidence.listing import list_bundles, list_files, read_file

NAME = bundle_name(1_700_000_000.25, 7, "stalled")


def test_a_name_tells_time_number_and_reason() -> None:
    assert NAME == "20231114T221320.250000Z-7-stalled"
    assert parse_name(NAME) == BundleName("20231114T221320.250000Z", 7, "stalled")


@given(st.floats(0, 4e9), st.integers(0, 2**53), st.text())
def test_every_name_is_taken_apart_again(wall_s: float, number: int, reason: str) -> None:
    parsed = parse_name(bundle_name(wall_s, number, reason))
    assert parsed is not None
    assert (parsed.number, parsed.reason) == (number, slug(reason))
    assert len(parsed.reason) <= REASON_LIMIT


@given(st.integers(0, 4 * 10**15), st.integers(0, 4 * 10**15))
def test_names_sort_by_time(one_us: int, other_us: int) -> None:
    # Whole microseconds of a float clock: below 2**53, so the conversion is exact to half of one.
    if abs(one_us - other_us) > 1:
        one, other = bundle_name(one_us / 1e6, 1, "a"), bundle_name(other_us / 1e6, 1, "a")
        assert (one < other) == (one_us < other_us)


@given(st.text())
def test_other_names_are_none_of_ours(name: str) -> None:
    parsed = parse_name(name)
    assert parsed is None or ("/" not in name and not name.startswith("."))


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", UNFINISHED + NAME, NAME + "/..", NAME.upper(), NAME + "/"]
)
def test_neighbouring_names_are_none_of_ours(name: str) -> None:
    assert parse_name(name) is None


@pytest.fixture
def dirs(tmp_path: Path) -> tuple[str, str]:
    state, run = tmp_path / "state", tmp_path / "run"
    (state / "evidence" / NAME).mkdir(parents=True)
    (state / "evidence" / NAME / "reason.json").write_text(
        json.dumps({"incarnation": "epoch/7", "reason": "stalled", "stalled_at": "a:b:1", "signature": "a:b"})
    )
    (state / "evidence" / NAME / "stacks.txt").write_text("stacks")
    (tmp_path / "secret").write_text("secret")
    return str(state), str(run)


def test_bundles_are_listed_newest_first_wherever_they_are(dirs: tuple[str, str]) -> None:
    later = bundle_name(1_700_000_001.0, 8, "lost")
    latest = bundle_name(time.time(), 9, "exited")
    os.makedirs(f"{dirs[1]}/evidence/{later}")
    os.makedirs(f"{dirs[0]}/evidence/{UNFINISHED}{latest}")
    os.makedirs(f"{dirs[0]}/evidence/lost+found")
    shown = [
        (
            bundle.name,
            bundle.incarnation,
            bundle.reason,
            bundle.stalled_at,
            bundle.is_finished,
            bundle.is_fallback,
        )
        for bundle in list_bundles(*dirs)
    ]
    assert shown == [
        (latest, "9", "exited", "", False, False),
        (later, "8", "lost", "", True, True),
        (NAME, "epoch/7", "stalled", "a:b:1", True, False),
    ]


def test_a_bundle_with_a_torn_reason_is_listed_by_its_name(dirs: tuple[str, str]) -> None:
    Path(dirs[0], "evidence", NAME, "reason.json").write_text('{"incarnation": ')
    (bundle,) = list_bundles(*dirs)
    assert (bundle.incarnation, bundle.reason) == ("7", "stalled")


def test_files_are_listed_and_read(dirs: tuple[str, str]) -> None:
    assert [name for name, _ in list_files(*dirs, NAME)] == ["reason.json", "stacks.txt"]
    assert read_file(*dirs, NAME, "stacks.txt") == b"stacks"


@pytest.mark.parametrize(
    ("name", "file_name"),
    [
        (NAME, "../../../secret"),
        (NAME, "/etc/passwd"),
        (NAME, ".."),
        (NAME, "."),
        (NAME, ""),
        (NAME, "none.txt"),
        (NAME, "link"),
        (NAME, "pipe"),
        (NAME, "nul\0"),
        ("..", "secret"),
        (f"{NAME}/../{NAME}", "stacks.txt"),
        ("", "stacks.txt"),
        (bundle_name(1.0, 1, "link"), "secret"),
    ],
)
def test_no_name_leads_out_of_a_bundle(dirs: tuple[str, str], name: str, file_name: str) -> None:
    bundle = Path(dirs[0], "evidence", NAME)
    (bundle / "link").symlink_to("../../../secret")
    os.mkfifo(bundle / "pipe")
    Path(dirs[0], "evidence", bundle_name(1.0, 1, "link")).symlink_to("../..")
    with pytest.raises(HostError):
        read_file(*dirs, name, file_name)


def test_without_any_directory_there_are_no_bundles(tmp_path: Path) -> None:
    assert list_bundles(str(tmp_path / "a"), str(tmp_path / "b")) == []
