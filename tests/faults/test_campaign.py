"""The campaign's command: what it lists, what it runs, what it says of a failure, and that nothing is left out."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest

from tests.faults import campaign
from tests.faults.conftest import pytest_runtest_setup
from tests.faults.oracles import Expectation, Verdict, judged
from tests.faults.registry import Case, Fault, cases_in, fault

if TYPE_CHECKING:
    from tests.faults.fault_node import FaultNode

pytestmark = pytest.mark.faults
MINE = {str(number) for number in (*range(1, 16), 37, 38)} | {"pair"}


def _nothing_is_the_matter(node: FaultNode) -> None:
    node.begin()
    with judged(node, expects=Expectation(restarts=0)):
        pass


def _something_is(_: FaultNode) -> None:
    raise AssertionError("the node is lost")


def _not_here(_: FaultNode) -> None:
    pytest.skip("no such device")


def case(run: object, why_not: str | None = None) -> Case:
    return Case("a_case", Fault("6", "a fault", "somebody", lambda: why_not), run)  # type: ignore[arg-type]


def test_every_fault_of_the_list_has_a_case() -> None:
    assert {one.fault.number for one in campaign.all_cases()} >= MINE


def test_names_are_unique_and_each_can_be_asked_for() -> None:
    cases = campaign.all_cases()
    assert len({one.name for one in cases}) == len(cases)
    assert [one.name for one in campaign.chosen(cases, ["a_segfault"])] == [
        "a_segfault_is_named_and_followed"
    ]
    assert {one.fault.number for one in campaign.chosen(cases, ["38"])} == {"38"}
    assert {"17", "18"} <= {
        number for one in campaign.chosen(cases, ["17"]) for number in one.fault.number.split(", ")
    }
    assert campaign.chosen(cases, None) == cases
    assert len([one for one in cases if one.fault.number == "pair"]) == 21


def test_a_parametrized_case_is_several() -> None:
    class Module:
        @staticmethod
        @pytest.mark.parametrize("much", [1, pytest.param(2, id="two")])
        @pytest.mark.parametrize("what", ["a"], ids=["one"])
        @fault("1", "title", by="who")
        def test_it(node: object, much: int, what: str) -> None:
            pass

    class Holder:
        test_it = Module.test_it

    assert sorted(one.name for one in cases_in(Holder)) == ["it[one-1]", "it[one-two]"]


def test_what_became_of_a_case_is_a_row() -> None:
    rows = [campaign.run_one(case(run)) for run in (_nothing_is_the_matter, _something_is, _not_here)]
    assert [row.verdict for row in rows] == [campaign.HEALED, campaign.FAILED, campaign.SKIPPED]
    assert "the node is lost" in rows[1].why
    assert rows[2].why == "no such device"
    assert campaign.run_one(case(_something_is, "not on this machine")).why == "not on this machine"


def test_pytest_skips_what_can_not_be_done_here() -> None:
    class Item:
        @staticmethod
        @fault("6", "a fault", by="somebody", why_not=lambda: "no such device")
        def function(_: object) -> None: ...

    with pytest.raises(pytest.skip.Exception, match="no such device"):
        pytest_runtest_setup(Item())  # type: ignore[arg-type]


def test_the_table_has_every_row_and_sums_up() -> None:
    rows = [campaign.run_one(case(run)) for run in (_something_is, _not_here)]
    told = campaign.table(rows)
    assert "0 healed, 1 failed, 1 skipped" in told
    assert "skipped: a_case: no such device" in told
    assert told.splitlines()[0].split() == [
        "no",
        "fault",
        "detected",
        "by",
        "detect",
        "recover",
        "evidence",
        "verdict",
    ]


def test_progress_is_told_case_by_case(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = io.StringIO()
    [row] = campaign.run([case(_something_is)], progress)
    assert progress.getvalue().startswith("[  1/1]    6  a fault … FAILED: a_case")
    assert row.took_s >= 0


def test_the_command_lists_runs_one_and_refuses_a_wrong_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign.main(["--only", "no such fault"]) == 2
    assert campaign.main(["--list", "--only", "a_sigkill"]) == 0
    assert "killed as by the OOM killer" in capsys.readouterr().out
    assert campaign.main(["--only", "a_sigkill", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["number"], row["verdict"]) == ("5", "healed")
    assert row["recover_s"] > 0
    assert Verdict(None, None, "", "-").cause == ""
