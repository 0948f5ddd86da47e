"""Durations and instants between people and seconds. Pure: the wall clock is an argument."""

from __future__ import annotations

from typing import Final

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``40ms``, ``30m``, ``2h``, ``1d``, ``1h30m``.

    Raises:
        ValueError: it is none, or not positive, or over a hundred years.
    """
    total_s, number = 0.0, ""
    rest = text.strip().replace(" ", "")
    wrong = f"{text[:40]!r} is no duration: write 90s, 30m, 2h, 1d or 1h30m"
    while rest:
        width = next((i for i, c in enumerate(rest) if c not in "0123456789."), len(rest))
        number, rest = rest[:width], rest[width:]
        width = next((i for i, c in enumerate(rest) if not c.isalpha()), len(rest))
        unit, rest = rest[:width] or "s", rest[width:]
        if not number or number.count(".") > 1 or not number.strip(".") or unit not in _UNITS:
            raise ValueError(wrong)
        total_s += float(number) * _UNITS[unit]
    if not 0 < total_s < 3.2e9:
        raise ValueError(wrong)
    return total_s


def duration(seconds: float) -> str:
    """Two units at most: ``36 ms``, ``1.3 s``, ``12 s``, ``4 min 10 s``, ``3 h 5 min``, ``2 d 4 h``."""
    if seconds < 0.9995:
        return f"{max(seconds, 0.0) * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def size(count: int) -> str:
    """Bytes for people: ``812 B``, ``3.4 KiB``, ``200 MiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:.3g} {unit}"


def utc(wall_s: float) -> str:
    """``2026-05-01 12:00:00Z``."""
    from time import gmtime, strftime  # noqa: PLC0415  # a conversion, not a clock

    return strftime("%Y-%m-%d %H:%M:%SZ", gmtime(wall_s))


def instant(text: str, wall_now: float) -> float:
    """Seconds since the epoch of ``2h`` (ago), ``2026-05-01`` or ``2026-05-01T12:00[:00][Z]``, all UTC.

    Raises:
        ValueError: it is neither.
    """
    from calendar import timegm  # noqa: PLC0415  # only for --since
    from time import strptime  # noqa: PLC0415

    plain = text.strip().removesuffix("Z").replace(" ", "T").partition(".")[0]
    for form in ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"):
        try:
            return float(timegm(strptime(plain, form)))
        except ValueError:
            continue
    try:
        return wall_now - parse_duration(text)
    except ValueError:
        raise ValueError(
            f"{text[:40]!r} is no instant: write 2h for two hours ago, or 2026-05-01T12:00 (UTC)"
        ) from None
