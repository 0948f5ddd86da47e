"""Bounded in number and size, the newest stays, and a crash loop does not push out yesterday's hang."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from nanny.evidence import retention
from nanny.evidence.bundle_name import UNFINISHED, bundle_name
from nanny.evidence.retention import UNFINISHED_KEPT, UNFINISHED_KEPT_S, Kept, Limits, plan, plan_unfinished

BUNDLES = st.lists(
    st.builds(
        Kept,
        st.builds(
            bundle_name,
            st.integers(0, 10**9),
            st.integers(1, 9),
            st.sampled_from(["stalled", "lost", "exited"]),
        ),
        st.integers(0, 1000),
    ),
    max_size=12,
    unique_by=lambda bundle: bundle.name,
)
LIMITS = st.builds(Limits, st.integers(1, 12), st.integers(1, 5000))


@given(BUNDLES, LIMITS)
def test_what_stays_is_within_the_limits_or_is_the_newest_alone(bundles: list[Kept], limits: Limits) -> None:
    doomed = plan(bundles, limits)
    left = [bundle for bundle in bundles if bundle.name not in doomed]
    assert len(left) + len(doomed) == len(bundles)
    size = sum(bundle.size_bytes for bundle in left)
    assert len(left) <= 1 or (len(left) <= limits.count and size <= limits.size_bytes)


@given(BUNDLES.filter(bool), LIMITS)
def test_the_newest_is_never_deleted(bundles: list[Kept], limits: Limits) -> None:
    assert max(bundle.name for bundle in bundles) not in plan(bundles, limits)


@given(BUNDLES, LIMITS)
def test_nothing_is_deleted_without_need(bundles: list[Kept], limits: Limits) -> None:
    doomed = plan(bundles, limits)
    if doomed:
        left = [bundle for bundle in bundles if bundle.name not in doomed[:-1]]
        assert len(left) > limits.count or sum(bundle.size_bytes for bundle in left) > limits.size_bytes


@given(BUNDLES, LIMITS)
def test_after_the_plan_there_is_nothing_to_plan(bundles: list[Kept], limits: Limits) -> None:
    doomed = plan(bundles, limits)
    assert plan([bundle for bundle in bundles if bundle.name not in doomed], limits) == ()


def test_a_crash_loop_deletes_its_own_oldest_and_not_the_one_hang() -> None:
    hang = Kept(bundle_name(1.0, 1, "stalled"), 10)
    crashes = [Kept(bundle_name(10.0 + n, 2 + n, "exited"), 10) for n in range(5)]
    assert plan([hang, *crashes], Limits(3, 1000)) == tuple(crash.name for crash in crashes[:3])


@given(
    st.lists(st.tuples(st.text(max_size=5), st.floats(0, 10**6)), max_size=12, unique_by=lambda one: one[0])
)
def test_of_unfinished_ones_a_few_young_ones_stay(ages_s: list[tuple[str, float]]) -> None:
    doomed = plan_unfinished(ages_s)
    left = [age_s for name, age_s in ages_s if name not in doomed]
    assert len(left) == min(UNFINISHED_KEPT, sum(age_s <= UNFINISHED_KEPT_S for _, age_s in ages_s))
    assert all(age_s <= UNFINISHED_KEPT_S for age_s in left)


def make(parent: Path, name: str, content: bytes = b"x") -> None:
    (parent / name).mkdir()
    (parent / name / "reason.json").write_bytes(content)


def test_only_bundles_are_deleted_and_strangers_stay(tmp_path: Path) -> None:
    names = [bundle_name(float(n), n, "lost") for n in range(1, 5)]
    for name in names:
        make(tmp_path, name)
    make(tmp_path, "keep-me")
    stale = UNFINISHED + names[0]
    make(tmp_path, stale)
    os.utime(tmp_path / stale, (0, 0))
    fresh = UNFINISHED + names[1]
    make(tmp_path, fresh)
    assert retention.apply(str(tmp_path), Limits(2, 1 << 20)) == 3
    assert set(os.listdir(tmp_path)) == {*names[2:], "keep-me", fresh}


def test_size_is_what_the_disk_gives(tmp_path: Path) -> None:
    names = [bundle_name(float(n), n, "lost") for n in range(1, 4)]
    for name in names:
        make(tmp_path, name, os.urandom(8192))
    assert retention.apply(str(tmp_path), Limits(9, 3 * 8192)) in {0, 1, 2}
    assert retention.apply(str(tmp_path), Limits(9, 1)) + len(os.listdir(tmp_path)) <= 3
    assert os.listdir(tmp_path) == names[2:]


def test_a_directory_that_is_not_there_is_no_trouble(tmp_path: Path) -> None:
    assert retention.apply(str(tmp_path / "none"), Limits(1, 1)) == 0
