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
    def dictionary(self) -> Path:
        """The words of the format, so that mutation finds them, as libFuzzer reads them: one a line, in quotes."""
        return WORDS / f"{self.name}.dict"

    def words(self) -> list[bytes]:
        """The same, read."""
        lines = self.dictionary.read_text().splitlines()
        return [_unescaped(line[1:-1]) for line in lines if line.startswith('"')]

    def inputs(self) -> list[Path]:
        """What is kept: chosen and found inputs, then those that failed once."""
        kept = [path for folder in (CORPUS, FOUND) for path in sorted((folder / self.name).glob("*"))]
        return [path for path in kept if path.is_file()]


def _unescaped(word: str) -> bytes:
    head, *rest = word.split("\\x")
    return head.encode() + b"".join(bytes.fromhex(part[:2]) + part[2:].encode() for part in rest)
