"""`python -m benchmarks`: measure, show a table beside the targets, keep JSON and plots.

Exit code 0 although targets are missed (they are marked, and the machine may be busy), 1 if a measurement broke off,
2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from benchmarks import figures, machine, plots, runner, table


def main(argv: list[str] | None = None) -> int:
    """Measure what is asked for; the exit code."""
    options = _options(argv)
    # Children would compile our modules anew at every start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        if options.again is not None:
            found, where = _read(options.again)
        else:
            found, where = _measure(options)
    except (runner.UnknownPart, OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    print(machine.described(where))
    print()
    print(table.markdown(found) if options.markdown else table.text(found))
    missed = table.missed(found)
    print(f"\n{len(missed)} targets missed" + "".join(f"\n  {one}" for one in missed))
    if options.plots is not None:
        options.plots.mkdir(parents=True, exist_ok=True)
        for name, text in plots.plots(found).items():
            (options.plots / name).write_text(text)
            sys.stderr.write(f"wrote {options.plots / name}\n")
    broken = runner.failures(found)
    if broken:
        sys.stderr.write("broke off:\n" + "".join(f"  {one}\n" for one in broken))
    return 1 if broken else 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=", ".join(runner.PARTS))
    parser.add_argument("--quick", action="store_true", help="few samples, under three minutes")
    parser.add_argument("--seed", type=int, default=1, help="of the random gaps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures, with machine and date")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write SVG charts")
    parser.add_argument("--markdown", action="store_true", help="the table as Markdown")
    parser.add_argument(
        "--again", type=Path, metavar="FILE", help="measure nothing: show what --json has kept"
    )
    return parser.parse_args(argv)


def _measure(options: argparse.Namespace) -> tuple[list[figures.Figure], dict[str, object]]:
    began_at = time.monotonic()

    def tell(what: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - began_at:5.0f} s] {what}\n")

    effort = figures.Effort(options.quick, options.seed, tell)
    names = runner.chosen(options.only)
    where: dict[str, object] = {**machine.machine(), "quick": options.quick, "seed": options.seed}
    found: list[figures.Figure] = []

    def keep(name: str, part: list[figures.Figure], took_s: float) -> None:
        found.extend(part)
        tell(f"{name}: {len(part)} figures in {took_s:.0f} s")
        if options.json is not None:
            # After each part: an interrupted run has what it had.
            text = json.dumps(
                {"machine": where, "figures": [figures.as_json(one) for one in found]}, indent=1
            )
            options.json.write_text(text + "\n")

    runner.run(names, effort, on_part=keep)
    return found, where


def _read(path: Path) -> tuple[list[figures.Figure], dict[str, object]]:
    kept = json.loads(path.read_text())
    return [figures.from_json(one) for one in kept["figures"]], kept["machine"]


if __name__ == "__main__":
    sys.exit(main())
