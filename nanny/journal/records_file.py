"""The journal's file format, version 1, and its pure parts: bytes in, records out, and back.

One line a record: the CRC-32 of the JSON in 8 hex digits, a space, a compact JSON object. ASCII, for `less`.
The first line is the header (type `journal`): format, epoch, generation, and `n`, the number that the file's
snapshot stands for. `snapshot` lines follow that carry that same `n`; after them each record has the `n` of
the one before plus one. A file with no compaction behind it has `n` 0 and no snapshot: its first record is 1.

What `parse` cannot read is never guessed at: it stops at the first bad line. If no good line follows, a
writer was cut off there (torn); if one does, the file was damaged and may have lost what was acknowledged.
Knows nothing of files, processes, or what a record means.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

FORMAT = 1
HEADER_TYPE = "journal"
MAX_LINE_BYTES = 65_536

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a journal file."""

    epoch: str
    """Given by whoever had the journal made; a new one whenever records may have been lost."""
    generation: int
    """Counts the files. Invariant: a file has one writer in its life; the highest one is the journal."""
    base: int = 0
    """The snapshot stands for all records up to this number."""
    snapshot: int = 0
    """How many lines the snapshot has."""
    replaces: int | None = None
    """The generation whose contents went into this one."""
    reason: str = "created"
    """Why it was written: created, takeover, compaction, damage."""
    life: str = ""
    """Token of the nanny's life whose writer made the file."""
    wall: str = ""
    boot: str = ""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a journal file holds.

    Invariant: valid_bytes + torn_bytes + damaged_bytes is the length of what was parsed; torn_bytes is 0 when
    is_damaged, damaged_bytes is 0 when not.
    """

    header: Header | None
    """None: the first line is not a header of this format; nothing else was read then."""
    records: tuple[Record, ...]
    """The snapshot's records and those after it, in order, each number once."""
    lines: tuple[bytes, ...]
    """The line of each record, as found."""
    valid_bytes: int
    torn_bytes: int
    damaged_bytes: int
    is_damaged: bool
    """Something may be lost that had been acknowledged."""
    duplicates: int
    """Lines dropped because their number was there already (resent after a lost acknowledgement)."""
    reason: str | None
    """What was wrong with the first bad line, and its offset; None when all was well."""

    @property
    def last_n(self) -> int:
        """The highest record number in the file; the snapshot's number, or 0, if there is none."""
        if self.records:
            return int(self.records[-1]["n"])
        return self.header.base if self.header is not None else 0

    def until(self, n: int) -> "Parsed":
        """The same without the records above `n`; the snapshot stays."""
        assert self.header is not None
        keep = min(len(self.records), self.header.snapshot + max(0, n - self.header.base))
        return Parsed(
            self.header,
            self.records[:keep],
            self.lines[:keep],
            self.valid_bytes,
            self.torn_bytes,
            self.damaged_bytes,
            self.is_damaged,
            self.duplicates,
            self.reason,
        )


def render_body(record: Mapping[str, Any]) -> bytes:
    """The record as compact JSON, still without its number.

    Raises:
        TypeError: a value is not JSON, or `type` is no string, or there is an `n` already.
        ValueError: a float is not finite, or the line would pass MAX_LINE_BYTES.
    """
    if not isinstance(record.get("type"), str) or "n" in record:
        raise TypeError(f"a record has a string `type` and no `n` yet: {sorted(record)}")
    body = json.dumps(record, separators=(",", ":"), allow_nan=False).encode("ascii")
    if len(body) > MAX_LINE_BYTES - 64:
        raise ValueError(
            f"a record of type {record['type']} has {len(body)} bytes, over {MAX_LINE_BYTES - 64}"
        )
    return body


def render_line(n: int, body: bytes) -> bytes:
    """The line for the record number `n` with the body that `render_body` made."""
    text = b'{"n":%d,%b' % (n, body[1:])
    return b"%08x %b\n" % (zlib.crc32(text), text)


def render_header(header: Header) -> bytes:
    """The first line of a file."""
    return render_line(
        header.base,
        render_body(
            {
                "type": HEADER_TYPE,
                "format": FORMAT,
                "epoch": header.epoch,
                "generation": header.generation,
                "snapshot": header.snapshot,
                "replaces": header.replaces,
                "reason": header.reason,
                "life": header.life,
                "wall": header.wall,
                "boot": header.boot,
            }
        ),
    )


def parse_line(line: bytes) -> Record | str:
    """The record in a line (without its newline), or what is wrong with it."""
    if len(line) < 10 or line[8:9] != b" ":
        return "no checksum"
    text = line[9:]
    if line[:8] != b"%08x" % zlib.crc32(text):
        return "the checksum differs"
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return "no JSON"
    if not isinstance(record, dict):
        return "no JSON object"
    n = record.get("n")
    if type(n) is not int or n < 0 or not isinstance(record.get("type"), str):
        return "no number or no type"
    return record


def parse_lines(content: bytes) -> list[Record]:
    """The records of lines that a writer has checked already.

    Raises:
        ValueError: a line is bad after all.
    """
    records = []
    for line in content.splitlines():
        record = parse_line(line)
        if isinstance(record, str):
            raise ValueError(record)  # noqa: TRY004 - a str is parse_line's way to say what is wrong
        records.append(record)
    return records


def parse(content: bytes) -> Parsed:
    """Read a journal file. Total: any bytes give an answer."""
    end = content.find(b"\n")
    header = _header(content[:end]) if end >= 0 else "no line at all"
    if isinstance(header, str):
        # The header is synced before the file gets its name: no crash of a writer explains its absence.
        return Parsed(None, (), (), 0, 0, len(content), True, 0, f"offset 0: {header}")
    records: list[Record] = []
    lines: list[bytes] = []
    last_n = header.base
    duplicates = 0
    reason = None
    offset = end + 1
    while offset < len(content):
        end = content.find(b"\n", offset)
        record = parse_line(content[offset:end]) if end >= 0 else "the line has no end"
        if isinstance(record, str):
            reason = f"offset {offset}: {record}"
            break
        n = record["n"]
        expected = header.base if len(records) < header.snapshot else last_n + 1
        if n > expected or (n < expected and len(records) < header.snapshot):
            reason = f"offset {offset}: number {n} where {expected} was due"
            break
        if n < expected:
            duplicates += 1
        else:
            records.append(record)
            lines.append(content[offset : end + 1])
            last_n = n
        offset = end + 1
    if reason is None and len(records) < header.snapshot:
        reason = f"offset {offset}: the snapshot has {len(records)} of {header.snapshot} lines"
    # A snapshot is synced before its file gets its name: one that is too short was not cut off by a crash.
    is_damaged = len(records) < header.snapshot or _has_good_line(content, offset)
    rest = len(content) - offset
    return Parsed(
        header=header,
        records=tuple(records),
        lines=tuple(lines),
        valid_bytes=offset,
        torn_bytes=0 if is_damaged else rest,
        damaged_bytes=rest if is_damaged else 0,
        is_damaged=is_damaged,
        duplicates=duplicates,
        reason=reason,
    )


def _header(line: bytes) -> Header | str:
    record = parse_line(line)
    if isinstance(record, str):
        return record
    if record["type"] != HEADER_TYPE:
        return "the first line is no header"
    if record.get("format") != FORMAT:
        return f"format {record.get('format')!r}, and this program reads {FORMAT}"
    counts = (record.get("generation"), record.get("snapshot"))
    replaces = record.get("replaces")
    texts = tuple(record.get(key) for key in ("epoch", "reason", "life", "wall", "boot"))
    if not (
        all(type(count) is int and count >= 0 for count in counts)
        and (replaces is None or type(replaces) is int)
        and all(isinstance(text, str) for text in texts)
    ):
        return "the header lacks a field"
    return Header(
        epoch=record["epoch"],
        generation=record["generation"],
        base=record["n"],
        snapshot=record["snapshot"],
        replaces=replaces,
        reason=record["reason"],
        life=record["life"],
        wall=record["wall"],
        boot=record["boot"],
    )


def _has_good_line(content: bytes, offset: int) -> bool:
    """Whether a whole line after the bad one at `offset` reads as a record."""
    _, _, rest = content[offset:].partition(b"\n")
    return any(not isinstance(parse_line(line), str) for line in rest.split(b"\n"))


def render_file(header: Header, lines: Iterable[bytes]) -> bytes:
    """A whole file: the header and lines as `render_line` gives them."""
    return render_header(header) + b"".join(lines)
