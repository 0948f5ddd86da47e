"""Each target for a short while under atheris, as `python -m tests.fuzz` runs it; and what it does with a finding.

Skipped with the reason where atheris does not install; `test_kept_inputs.py` runs everywhere.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import campaign
from tests.fuzz.registry import TARGETS
from tests.fuzz.target import Run, Scratch, Target

pytestmark = [
    pytest.mark.fuzz,
    pytest.mark.slow,
    pytest.mark.skipif(
        not campaign.has_atheris(), reason="atheris has no wheel for this machine or this Python"
    ),
]

SECONDS = 1.0


@pytest.mark.timeout(600)
def test_a_short_campaign_finds_nothing_in_any_target(leaves_nothing_behind: None, tmp_path: Path) -> None:
    outcomes = campaign.run(list(TARGETS.values()), SECONDS, 2, lambda _: None, found=tmp_path, seed=1)
    assert {one.target for one in outcomes} == set(TARGETS)
    found = {
        one.target: (one.problem, [Path(name).read_bytes() for name in one.findings])
        for one in outcomes
        if one.problem
    }
    assert found == {}
    # An instrumented target shows more coverage than its start, or it was not instrumented at all.
    idle = {one.target: one for one in outcomes if one.executions < 20 or one.features < 5}
    assert idle == {}
    assert max(one.rss_mib for one in outcomes) < campaign.RSS_LIMIT_MIB


def test_one_target_of_the_command_line_is_told_in_json(leaves_nothing_behind: None) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--target", "kernel-log", "--seconds", "1", "--json"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (told,) = json.loads(ran.stdout)
    assert (told["target"], told["problem"], told["is_over"]) == ("kernel-log", "", True)


@pytest.mark.parametrize(
    ("flaw", "artifact", "told"),
    [
        ("raise RuntimeError('a bug')", "crash-", "RuntimeError: a bug"),
        ("kept.append(bytearray(400 << 20))", "oom-", ""),
        ("while True: pass", "timeout-", ""),
    ],
)
def test_a_flaw_is_found_saved_and_told(
    leaves_nothing_behind: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flaw: str,
    artifact: str,
    told: str,
) -> None:
    # The process of its own imports the registry by name: this one stands in its place on the path.
    stand_in = tmp_path / "flawed.py"
    stand_in.write_text(
        "import sys, tests.fuzz.registry as registry\n"
        "from tests.fuzz.target import Target\n"
        "kept = []\n"
        "def make(scratch):\n"
        "    def run(given):\n"
        "        if len(given) > 2:\n"
        f"            {flaw}\n"
        "    return run\n"
        "registry.TARGETS['beat'] = Target('beat', make)\n"
        "from tests.fuzz.one_target import main\n"
        "main()\n"
    )
    monkeypatch.setattr(campaign, "MODULE", (str(stand_in),))
    monkeypatch.setattr(campaign, "INPUT_TIMEOUT_S", 2)
    outcomes: list[campaign.Outcome] = []
    campaign.run([Target("beat", _nothing)], 20.0, 1, outcomes.append, found=tmp_path / "found")
    last = outcomes[-1]
    assert last.is_over
    assert told in last.problem
    assert [Path(name).name.partition("-")[0] + "-" for name in last.findings] == [artifact]
    assert len(Path(last.findings[0]).read_bytes()) > 2


def _nothing(_scratch: Scratch) -> Run:
    return lambda _given: None
