"""``python -m tests.fuzz``: every parser under a coverage-guided fuzzer, live, with a table at the end.

Exit status 1: something was found, and lies below tests/fuzz/found/, where the tests replay it until it is mended.
2: the fuzzer is not installed here; the kept inputs are tried all the same, without it.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.fuzz import campaign, kept_inputs
from tests.fuzz.campaign import Outcome
from tests.fuzz.registry import TARGETS
from tests.fuzz.target import Scratch, Target

_HEADINGS = ("target", "executions", "exec/s", "features", "corpus", "rss MiB", "findings")
_ROW = "{:18} {:>12} {:>9} {:>9} {:>7} {:>8} {:>9}"


def main() -> int:
    """Run what the command line says."""
    options = _options()
    targets = [TARGETS[name] for name in options.target or TARGETS]
    if not campaign.has_atheris():
        print("atheris is not installed (it has wheels for few machines): only the kept inputs are tried")
        return _replay(targets)
    began_at, is_live = time.monotonic(), sys.stderr.isatty() and not options.json
    over: list[Outcome] = []

    def tell(outcome: Outcome) -> None:
        if outcome.is_over:
            over.append(outcome)
        if options.json or not (is_live or outcome.is_over):
            return
        done = f"[{len(over)}/{len(targets)} {time.monotonic() - began_at:4.0f} s]"
        line = f"{done} {outcome.target}: {outcome.executions:,} executions, {outcome.features} features"
        print(
            f"\r\x1b[K{line}" if is_live else line, end="" if is_live else "\n", file=sys.stderr, flush=True
        )

    with tempfile.TemporaryDirectory(prefix="fz") as new:
        outcomes = campaign.run(
            targets,
            options.seconds,
            options.jobs,
            tell,
            keep_new_in=Path(new) if options.keep else None,
            seed=options.seed,
        )
        if options.keep:
            for outcome in outcomes:
                if not outcome.problem:
                    added = kept_inputs.keep(TARGETS[outcome.target], Path(new) / outcome.target)
                    print(f"{outcome.target}: {len(added)} inputs added", file=sys.stderr)
    outcomes.sort(key=lambda one: list(TARGETS).index(one.target))
    if is_live:
        print(file=sys.stderr)
    _show(outcomes, as_json=options.json)
    return int(any(one.problem for one in outcomes))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--target", action="append", choices=list(TARGETS), help="only this one; may be repeated"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (60)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (2)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (0: another each time)")
    parser.add_argument(
        "--keep", action="store_true", help="add new inputs that reach new lines to the corpus"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser.parse_args()


def _replay(targets: list[Target]) -> int:
    failed = 0
    for target in targets:
        with tempfile.TemporaryDirectory(prefix="fz") as folder, Scratch(Path(folder)) as scratch:
            run = target.make(scratch)
            for path in target.inputs():
                try:
                    run(path.read_bytes())
                except Exception as error:
                    failed += 1
                    print(f"{target.name}: {path.name}: {error!r}")
    return 1 if failed else 2


def _show(outcomes: list[Outcome], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(one) for one in outcomes], indent=1))
        return
    print(_ROW.format(*_HEADINGS))
    for one in outcomes:
        print(
            _ROW.format(
                one.target,
                f"{one.executions:,}",
                f"{one.executions_per_s:,}",
                one.features,
                one.inputs,
                one.rss_mib,
                len(one.findings),
            )
        )
    for one in outcomes:
        for finding in one.findings:
            print(f"found: {finding}")
        if one.problem:
            print(f"{one.target}: {one.problem}")
    print(
        f"{sum(one.executions for one in outcomes):,} executions, {sum(bool(one.problem) for one in outcomes)} targets with findings"
    )


if __name__ == "__main__":
    sys.exit(main())
