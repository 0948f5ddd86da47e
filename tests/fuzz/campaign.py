"""Targets under atheris, each in a process of its own, with limits on memory, time and length of an input.

The fuzzer begins with the kept corpus and collects what reaches new code in a scratch directory of its own. A finding
is saved below `found/<target>/`, where the tests replay it from then on. Knows no target's meaning.
"""

import os
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.target import CORPUS, FOUND, Target

MODULE = ("-m", "tests.fuzz.one_target")
RSS_LIMIT_MIB = 256
"""Of the whole process; an interpreter with our modules has some 50."""
INPUT_TIMEOUT_S = 30
"""For one input, on a busy machine; the slowest that are kept take a thousandth of it."""
_START_AND_END_S = 240.0
_ROOT = Path(__file__).parents[2]
_STATUS = re.compile(r"#(\d+)\s+\w+\s.*?ft: (\d+) corp: (\d+)/(\S+).*?exec/s: (\d+) rss: (\d+)Mb")
_DONE = re.compile(r"Done (\d+) runs in (\d+) second")
_ARTIFACT = re.compile(r"(?:crash|timeout|oom|leak|slow-unit)-[0-9a-f]+")


def has_atheris() -> bool:
    """Whether the fuzzer is installed: it has wheels for some machines only."""
    return find_spec("atheris") is not None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a target's run came to, or has come to so far."""

    target: str
    executions: int = 0
    executions_per_s: int = 0
    features: int = 0
    """Of coverage: edges and how often they were taken, as libFuzzer counts."""
    inputs: int = 0
    """In the corpus that it ended with."""
    rss_mib: int = 0
    findings: tuple[str, ...] = ()
    """Files below `found/`."""
    problem: str = ""
    """Why the run itself failed, or what the finding raised."""
    is_over: bool = False


def run(
    targets: Sequence[Target],
    seconds: float,
    jobs: int,
    tell: Callable[[Outcome], None],
    found: Path = FOUND,
    keep_new_in: Path | None = None,
    seed: int = 0,
) -> list[Outcome]:
    """Fuzz each target for so many seconds, `jobs` at a time.

    Args:
        targets: which.
        seconds: for each of them.
        jobs: processes at a time.
        tell: gets what each has come to, now and then.
        found: where findings are saved, a directory a target.
        seed: of the mutations; 0 takes another each time.
        keep_new_in: where the inputs that reached new code are left, likewise; None throws them away.
    """
    waiting, outcomes = list(targets), []
    with selectors.DefaultSelector() as selector, tempfile.TemporaryDirectory(prefix="fz") as scratch:
        running: dict[int, _Running] = {}
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    one = _Running(waiting.pop(0), Path(scratch), seconds, seed)
                    running[one.fd] = one
                    selector.register(one.fd, selectors.EVENT_READ)
                for key, _ in selector.select(0.2):
                    one = running[key.fd]
                    if one.read():
                        tell(one.outcome)
                    else:
                        selector.unregister(key.fd)
                        del running[key.fd]
                        outcome = one.end(found, keep_new_in)
                        outcomes.append(outcome)
                        tell(outcome)
                for one in running.values():
                    one.kill_if_overdue()
        finally:
            for one in running.values():
                one.kill()
    return outcomes


class _Running:
    """One process."""

    def __init__(self, target: Target, scratch: Path, seconds: float, seed: int) -> None:
        self.target = target
        self.outcome = Outcome(target.name)
        self._home = scratch / target.name
        for name in ("new", "made", "scratch"):
            (self._home / name).mkdir(parents=True)
        kept = CORPUS / target.name
        kept.mkdir(parents=True, exist_ok=True)
        self._deadline_at = time.monotonic() + seconds + _START_AND_END_S
        self._text = ""
        self._popen = subprocess.Popen(
            [
                *(sys.executable, *MODULE, target.name, str(self._home / "scratch")),
                *(f"-max_total_time={max(1, round(seconds))}", f"-max_len={target.longest}"),
                *(
                    f"-rss_limit_mb={RSS_LIMIT_MIB}",
                    f"-timeout={INPUT_TIMEOUT_S}",
                    f"-dict={target.dictionary}",
                ),
                *(
                    f"-artifact_prefix={self._home / 'made'}/",
                    "-print_final_stats=1",
                    "-reload=0",
                    f"-seed={seed}",
                ),
                *(str(self._home / "new"), str(kept)),
            ],
            cwd=_ROOT,
            env=os.environ | {"PYTHONPATH": str(_ROOT), "TMPDIR": str(self._home / "scratch")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._popen.stdout is not None
        self.fd = self._popen.stdout.fileno()

    def read(self) -> bool:
        """Take in what it says; False once it has ended."""
        said = os.read(self.fd, 1 << 16).decode(errors="replace")
        self._text = (self._text + said)[-200_000:]
        statuses = _STATUS.findall(self._text[-20_000:])
        if statuses:
            executions, features, inputs, _, rate, rss = statuses[-1]
            self.outcome = replace(
                self.outcome,
                executions=int(executions),
                executions_per_s=int(rate),
                features=int(features),
                inputs=int(inputs),
                rss_mib=int(rss),
            )
        return bool(said)

    def end(self, found: Path, keep_new_in: Path | None) -> Outcome:
        """Reap it and save what it found."""
        assert self._popen.stdout is not None
        status = self._popen.wait()
        self._popen.stdout.close()
        done = _DONE.search(self._text)
        if done is not None:
            executions = int(done[1])
            self.outcome = replace(
                self.outcome, executions=executions, executions_per_s=executions // max(1, int(done[2]))
            )
        findings = []
        for made in sorted((self._home / "made").iterdir()):
            if _ARTIFACT.fullmatch(made.name):
                place = found / self.target.name / made.name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(made, place)
                findings.append(str(place))
        if keep_new_in is not None:
            shutil.copytree(self._home / "new", keep_new_in / self.target.name, dirs_exist_ok=True)
        problem = "" if status == 0 else f"status {status}: {_told(self._text)}"
        self.outcome = replace(self.outcome, findings=tuple(findings), problem=problem, is_over=True)
        return self.outcome

    def kill_if_overdue(self) -> None:
        """A fuzzer that hangs itself, and not in an input, must not hold the campaign."""
        if time.monotonic() > self._deadline_at:
            self._popen.kill()

    def kill(self) -> None:
        """End it, whatever it does."""
        assert self._popen.stdout is not None
        self._popen.kill()
        self._popen.wait()
        self._popen.stdout.close()


def _told(text: str) -> str:
    """What the uncaught exception was, else the last words."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if "Uncaught Python exception" in line:
            return " | ".join(lines[number + 1 : number + 2] + _places(lines[number + 1 :]))[:600]
    summaries = [line for line in lines if line.startswith(("SUMMARY", "==", "ERROR"))]
    return " | ".join(summaries[-2:] or lines[-3:])[:600]


def _places(lines: list[str]) -> list[str]:
    """Where it was raised: the innermost lines of a traceback."""
    return [line.strip() for line in lines[:80] if line.startswith("  File")][-2:]
