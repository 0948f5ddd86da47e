"""What a fuzz target is: a parser with an oracle, fed with bytes that nobody chose.

`make` imports the code under test (so that whoever fuzzes can instrument the import) and gives a function of the
input. That function returns for whatever the parser's contract allows, refusals by its declared error included,
and raises for everything else: a finding. It may keep sockets and files in the scratch directory, and must end each
call as it began: inputs are tried in any order, and each counts for itself.

Knows no fuzzer: hypothesis, atheris and the corpus all run the same targets.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
WORDS = Path(__file__).parent / "words"
FOUND = Path(__file__).parent / "found"

Run = Callable[[bytes], None]


class Scratch(ExitStack):
    """Where a target keeps what it needs for all its inputs: files in `folder`, the rest closed with the block."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder


Make = Callable[[Scratch], Run]


@dataclass(frozen=True, slots=True)
class Target:
    """One parser under attack."""

    name: str
    make: Make
    """Gives the function of the input; the scratch directory is empty and its path short."""
    longest: int = 4096
    """Of an input, in bytes."""

    @property
    def words(self) -> Path:
        """What the format has words for, so that mutation finds them: a dictionary of libFuzzer's."""
        return WORDS / f"{self.name}.dict"

    def inputs(self) -> list[Path]:
        """What is kept: chosen and found inputs, then those that failed once."""
        kept = [path for folder in (CORPUS, FOUND) for path in sorted((folder / self.name).glob("*"))]
        return [path for path in kept if path.is_file()]
