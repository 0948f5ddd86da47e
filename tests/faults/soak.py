"""Thousands of faults on a few real nodes, none of which may be lost: ``python -m tests.faults.soak --minutes N``.

Each node (a nanny with a light worker, and a link to a real server unless ``--no-server``) gets fault after fault, in
an order that the seed decides. Memory, descriptors and threads of node 0's nanny and link and of the server are
sampled all the while and have to be flat. Exit status 1 when a node was lost, something was left wrong, or something
grows; the last line says how to do the same again.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TextIO

from tests.faults.fault_node import fault_node
from tests.faults.flatness import Flatness, Samples
from tests.faults.served_node import Server, link_flags
from tests.faults.soak_nodes import SoakNode

if TYPE_CHECKING:
    from collections.abc import Sequence

TELL_EVERY_S = 5.0
SAMPLE_EVERY_S = 0.5
NODES = 3
WATCHDOG_S = 10.0
"""These nannies are stopped for moments and execute themselves anew, on a machine that is busy with others like them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done."""

    minutes: float
    seed: int
    nodes: int
    only_node: int | None
    has_server: bool


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it."""

    plan: Plan
    faults: int
    healed_s: dict[str, list[float]]
    wrong: tuple[str, ...]
    flatness: tuple[Flatness, ...]

    @property
    def is_good(self) -> bool:
        """No node lost, nothing wrong, nothing that grows."""
        return not self.wrong and all(one.is_flat for one in self.flatness)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.soak", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    parser.add_argument(
        "--seed", type=int, default=None, help="the same seed does the same faults; by default a new one"
    )
    parser.add_argument("--nodes", type=int, default=NODES, help=f"how many nodes ({NODES})")
    parser.add_argument("--only-node", type=int, help="only this one of them: to do one node's faults again")
    parser.add_argument("--no-server", action="store_true", help="nodes without link and server")
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    options = parser.parse_args(arguments)
    seed = time.time_ns() % 1_000_000 if options.seed is None else options.seed
    plan = Plan(options.minutes, seed, options.nodes, options.only_node, not options.no_server)
    result = run(plan, sys.stderr)
    print(json.dumps(as_json(result), indent=1) if options.json else table(result))
    return 0 if result.is_good else 1


def run(plan: Plan, progress: TextIO) -> Result:
    """Do it."""
    numbers = range(plan.nodes) if plan.only_node is None else [plan.only_node]
    stop = threading.Event()
    with ExitStack() as ends:
        bases = [ends.enter_context(fault_node(WATCHDOG_S)) for _ in numbers]
        server = ends.enter_context(Server(bases[0])) if plan.has_server else None
        flags: tuple[str, ...] = () if server is None else link_flags(server.url)
        soaked = [
            SoakNode(number, base, plan.seed, (f"--node-name=soak-{number}", *flags), plan.has_server)
            for number, base in zip(numbers, bases, strict=True)
        ]
        for one in soaked:
            one.begin()
        samples = [Samples("nanny"), Samples("link"), Samples("server")]
        until = time.monotonic() + plan.minutes * 60.0
        threads = [
            threading.Thread(target=one.run, args=(until, stop), name=f"node-{one.number}") for one in soaked
        ]
        for thread in threads:
            thread.start()
        try:
            _watch(plan, soaked, server, samples, threads, progress)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        wrong = [one.lost for one in soaked if one.lost is not None]
        for one in soaked:
            if one.lost is None:
                wrong += one.audit()
                wrong += one.node.watch.missed(one.node.pid, 0.0, time.monotonic())
            else:
                one.node.is_expected_to_err = True
        for one in soaked:
            if one.lost is None:
                one.node.stop()
    healed: dict[str, list[float]] = defaultdict(list)
    for one in soaked:
        for done in one.done:
            healed[done.kind].append(done.healed_after_s)
    flat = [one for taken in samples for one in taken.judged()] if 0 in numbers else []
    return Result(plan, sum(map(len, healed.values())), dict(healed), tuple(wrong), tuple(flat))


def _watch(
    plan: Plan,
    soaked: Sequence[SoakNode],
    server: Server | None,
    samples: Sequence[Samples],
    threads: Sequence[threading.Thread],
    progress: TextIO,
) -> None:
    """Sample, and tell how it goes, until every node's thread is done."""
    began = told_at = time.monotonic()
    nanny, link, served = samples
    watched = soaked[0]
    link_pid = watched.node.status()["link"]["pid"] if plan.has_server else 0
    while any(thread.is_alive() for thread in threads):
        time.sleep(SAMPLE_EVERY_S)
        now = time.monotonic()
        if watched.number == 0:
            nanny.take(watched.node.pid, now)
            if server is not None:
                link.take(link_pid, now)
                served.take(server.pid, now)
        if now - told_at >= TELL_EVERY_S:
            told_at = now
            faults = sum(len(one.done) for one in soaked)
            lost = sum(one.lost is not None for one in soaked)
            size = nanny.taken["pss"][-1][1] / (1 << 20) if nanny.taken else 0.0
            progress.write(
                f"{now - began:6.0f} s of {plan.minutes * 60:.0f}: {faults} faults, {lost} nodes lost, nanny {size:.1f} MiB\n"
            )
            progress.flush()


def table(result: Result) -> str:
    """The result for people."""
    plan = result.plan
    lines = [f"{'fault':<30} {'times':>6} {'p50':>8} {'p99':>8} {'longest':>8}"]
    for kind, times in sorted(result.healed_s.items(), key=lambda item: -len(item[1])):
        ranked = sorted(times)
        at = [ranked[int((len(ranked) - 1) * share)] for share in (0.5, 0.99, 1.0)]
        lines.append(f"{kind:<30} {len(times):>6} " + " ".join(f"{one:>6.2f} s" for one in at))
    lines += ["", f"{'process':<8} {'what':<12} {'first':>12} {'last':>12} {'growth':>12} {'tolerance':>12}"]
    for one in result.flatness:
        mark = "" if one.is_flat else "  GROWS"
        lines.append(
            f"{one.process:<8} {one.quantity:<12} {one.first:>12.0f} {one.last:>12.0f} {one.growth:>12.1f} {one.tolerance:>12.0f}{mark}"
        )
    lines += ["", *(f"WRONG: {one}" for one in result.wrong)]
    verdict = "no node lost, nothing grows" if result.is_good else "NOT GOOD"
    lines.append(f"{result.faults} faults on {plan.nodes} nodes in {plan.minutes:g} min: {verdict}")
    lines.append(f"again: {again(plan)}")
    return "\n".join(lines)


def again(plan: Plan) -> str:
    """The command that does the same faults in the same order."""
    words = [
        "python -m tests.faults.soak",
        f"--minutes {plan.minutes:g} --seed {plan.seed} --nodes {plan.nodes}",
    ]
    if plan.only_node is not None:
        words.append(f"--only-node {plan.only_node}")
    if not plan.has_server:
        words.append("--no-server")
    return " ".join(words)


def as_json(result: Result) -> dict[str, Any]:
    """The result for programs."""
    return {
        **asdict(result.plan),
        "faults": result.faults,
        "is_good": result.is_good,
        "wrong": list(result.wrong),
        "kinds": {
            kind: {"times": len(times), "longest_s": round(max(times), 3)}
            for kind, times in result.healed_s.items()
        },
        "flatness": [asdict(one) | {"is_flat": one.is_flat} for one in result.flatness],
        "again": again(result.plan),
    }


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    sys.exit(main())
