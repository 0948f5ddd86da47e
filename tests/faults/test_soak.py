"""A minute of soak, and what judges it: a leak is seen, noise is not, a lost node ends it with how to do it again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.faults.fault_node import fault_node, send
from tests.faults.flatness import Samples, growth, memory_of
from tests.faults.soak import Plan, Result, again, as_json, table
from tests.faults.soak_nodes import KINDS, Lost, SoakNode
from tests.support.processes import spawn_python

pytestmark = pytest.mark.faults


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_minute_of_faults_loses_no_node_and_nothing_grows() -> None:
    command = [sys.executable, "-m", "tests.faults.soak", "--minutes", "1", "--seed", "4", "--json"]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    told: dict[str, Any] = json.loads(ended.stdout) if ended.stdout else {"wrong": [ended.stderr]}
    assert told["wrong"] == []
    assert [one for one in told["flatness"] if not one["is_flat"]] == []
    assert ended.returncode == 0, ended.stderr
    assert told["faults"] >= 60
    print(f"{told['faults']} faults; {told['kinds']}")


def test_a_line_through_samples_tells_a_leak_from_noise() -> None:
    dice = random.Random(1)
    noise = [(float(at), 100.0 + dice.uniform(-10, 10)) for at in range(100)]
    leak = [(at, value + at) for at, value in noise]
    assert abs(growth(noise)) < 10.0
    assert growth(leak) == pytest.approx(99.0, abs=10.0)
    assert growth([(1.0, 5.0)] * 3) == 0.0


@pytest.mark.parametrize(
    ("leak", "quantity"), [("store.append(b'x' * (1 << 20))", "anonymous"), ("store.append(open('/dev/null'))", "descriptors")]
)  # fmt: skip
def test_a_process_that_leaks_is_found(leak: str, quantity: str) -> None:
    program = f"import sys; store = []\nprint('up', flush=True)\nfor line in sys.stdin:\n    {leak}; print('.', flush=True)"
    with spawn_python(program) as process:
        assert process.read_line() == "up"
        samples, instants = Samples("nanny"), count()
        assert process.popen.stdin is not None
        for _ in range(20):
            process.popen.stdin.write(b"more\n")
            process.popen.stdin.flush()
            assert process.read_line() == "."
            samples.take(process.pid, float(next(instants)))
        grown = {one.quantity for one in samples.judged() if not one.is_flat}
    assert quantity in grown
    assert "threads" not in grown


def test_a_process_that_is_gone_and_too_few_samples_say_nothing() -> None:
    samples = Samples("nanny")
    samples.take(2**22 - 1, 1.0)
    assert samples.taken == {}
    for at in range(5):
        samples.take(os.getpid(), float(at))
    assert samples.judged() == []
    assert memory_of(os.getpid())["pss"] > 0


def test_the_same_seed_does_the_same_faults() -> None:
    """What is drawn depends on seed, node and step alone."""

    def drawn(seed: int, number: int) -> list[str]:
        dice = random.Random(f"{seed}/{number}")
        return [dice.choices(KINDS, [kind.weight for kind in KINDS])[0].name for _ in range(50)]

    assert drawn(7, 1) == drawn(7, 1)
    assert drawn(7, 1) != drawn(8, 1)
    assert drawn(7, 1) != drawn(7, 2)


def test_a_bystander_that_was_harmed_and_a_second_life_are_a_lost_node() -> None:
    with fault_node() as base:
        soaked = SoakNode(0, base, 1, (), has_link=False)
        soaked.begin()
        soaked.look_closely()
        assert soaked.audit() == []
        send(base.bystander.process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while base.bystander.harm() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(Lost, match="bystander"):
            soaked.look_closely()
        assert soaked.audit() == ["node 0: the bystander is dead"]
        base.stop()


def test_a_result_tells_what_was_wrong_and_how_to_do_it_again() -> None:
    plan = Plan(minutes=2.0, seed=11, nodes=3, only_node=1, has_server=False)
    result = Result(plan, 1, {"worker dies": [0.5]}, ("node 1, step 9: gone",), ())
    assert not result.is_good
    told = table(result)
    assert "WRONG: node 1, step 9: gone" in told
    assert "NOT GOOD" in told
    assert (
        again(plan) == "python -m tests.faults.soak --minutes 2 --seed 11 --nodes 3 --only-node 1 --no-server"
    )
    assert as_json(result)["is_good"] is False
    assert Result(plan, 1, {"worker dies": [0.5]}, (), ()).is_good
