"""Names that cross the wire: UUIDs in order of time for commands and events, node names, other identifiers.

Pure: time and random bytes are arguments. Knows neither what an identifier stands for nor whether it is
taken.

RFC 9562 5.7 (UUIDv7) and 6.2 (monotonicity), RFC 1123 2.1 (host names).
"""

from __future__ import annotations

from typing import Final

_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz")
_DIGITS: Final = frozenset("0123456789")
_NODE_NAME: Final = _LETTERS | _DIGITS | {"-"}
_IDENTIFIER: Final = _LETTERS | _DIGITS | {letter.upper() for letter in _LETTERS} | frozenset("._:-")
_HEX: Final = _DIGITS | frozenset("abcdef")
_RANDOM_BITS: Final = 74
_GROUPS: Final = (8, 4, 4, 4, 12)


def uuid7(wall_ms: int, random_bytes: bytes, after: str | None = None) -> str:
    """A new UUIDv7 in its canonical lower-case form, whose order as text is its order in time.

    Args:
        wall_ms: Milliseconds since the Unix epoch, below 2**48.
        random_bytes: Ten bytes from the operating system's generator; 74 bits of them are used.
        after: The identifier that this source minted last. Within one millisecond, or when the wall clock was
            set back, the new one is the successor of it: still greater, still unique.

    Raises:
        ValueError: The time does not fit, there are too few bytes, or `after` is no UUIDv7.
    """
    if not 0 <= wall_ms < 1 << 48:
        raise ValueError(f"UUIDv7 time {wall_ms} ms, expected 0 to 2**48 - 1")
    if len(random_bytes) < 10:
        raise ValueError(f"{len(random_bytes)} random bytes, expected 10")
    bits = wall_ms << _RANDOM_BITS | int.from_bytes(random_bytes[:10]) >> 6
    if after is not None:
        bits = max(bits, _ordered_bits(after) + 1)
    random_a = bits >> 62 & 0xFFF
    random_b = bits & (1 << 62) - 1
    whole = bits >> _RANDOM_BITS << 80 | 0x7 << 76 | random_a << 64 | 0b10 << 62 | random_b
    text = f"{whole:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def parse_uuid7(text: str) -> int:
    """The milliseconds since the Unix epoch at which a UUIDv7 was minted, by its minter's clock.

    Only the canonical lower-case form is taken: the same identifier must be the same text everywhere.

    Raises:
        ValueError: It is no UUIDv7 in that form.
    """
    return _ordered_bits(text) >> _RANDOM_BITS


def is_uuid7(text: str) -> bool:
    """Whether the text is a UUIDv7 in its canonical lower-case form."""
    groups = text.split("-")
    return (
        tuple(map(len, groups)) == _GROUPS
        and all(_HEX.issuperset(group) for group in groups)
        and groups[2][0] == "7"
        and groups[3][0] in "89ab"
    )


def check_node_name(text: str) -> str:
    """The name itself, if it is one by RFC 1123: labels of 1 to 63 joined by dots, 253 in all, lower case.

    Raises:
        ValueError: It is none; the message says what would be right.
    """
    labels = text.split(".")
    if len(text) > 253 or not all(map(_is_label, labels)):
        raise ValueError(
            f"node name {text[:64]!r}: expected at most 253 characters in labels joined by dots, each 1 to "
            "63 of a-z, 0-9 and -, beginning and ending with a letter or digit"
        )
    return text


def check_identifier(text: str, limit: int) -> str:
    """The identifier itself, if it has 1 to `limit` of the characters that are safe in paths, URLs and logs.

    Raises:
        ValueError: It has not; the message says what would be right.
    """
    if not 0 < len(text) <= limit or not _IDENTIFIER.issuperset(text) or text[0] in "._:-":
        raise ValueError(
            f"identifier {text[:64]!r}: expected 1 to {limit} of a-z, A-Z, 0-9 and . _ : -, "
            "beginning with a letter or digit"
        )
    return text


def _ordered_bits(text: str) -> int:
    """Time and random part as one number of 122 bits, version and variant left out."""
    if not is_uuid7(text):
        raise ValueError(f"identifier {text[:64]!r}: expected a UUIDv7 in lower case")
    whole = int(text.replace("-", ""), 16)
    return whole >> 80 << _RANDOM_BITS | (whole >> 64 & 0xFFF) << 62 | whole & (1 << 62) - 1


def _is_label(label: str) -> bool:
    return 0 < len(label) <= 63 and _NODE_NAME.issuperset(label) and "-" not in {label[0], label[-1]}
