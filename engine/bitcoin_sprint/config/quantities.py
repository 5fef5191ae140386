"""Durations, sizes and speeds as text: ``"500us"``, ``"1.5s"``, ``"256MiB"``, ``"60x"``."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_DURATION_NS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, as contracts spell it
    "μs": 1_000,  # U+03BC, what many keyboards give
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "min": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
_SIZE_BYTES: Final = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}
_QUANTITY: Final = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-zµμ]+)\s*")
_SPEED: Final = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*x\s*")


def parse_duration(text: str) -> int:
    """Return nanoseconds; ValueError says what was expected."""
    return _parse(text, _DURATION_NS, "a duration such as 500us, 10ms, 1.5s, 5min")


def parse_size(text: str) -> int:
    """Return bytes; ValueError says what was expected."""
    return _parse(text, _SIZE_BYTES, "a size such as 64KiB, 256MiB, 1GiB")


def format_duration(duration_ns: int) -> str:
    """Return the shortest exact text of a duration in one unit, such as ``500µs`` or ``1.5s``."""
    for unit in ("h", "min", "s", "ms", "µs"):
        factor = _DURATION_NS[unit]
        if duration_ns and duration_ns % factor == 0:
            return f"{duration_ns // factor}{unit}"
        tenths = duration_ns * 10
        if unit in ("s", "ms", "µs") and duration_ns > factor and tenths % factor == 0:
            whole, tenth = divmod(tenths // factor, 10)
            return f"{whole}.{tenth}{unit}"
    return f"{duration_ns}ns" if duration_ns else "0s"


def format_size(size_bytes: int) -> str:
    """Return the shortest exact text of a size, such as ``256MiB``."""
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _SIZE_BYTES[unit] == 0:
            return f"{size_bytes // _SIZE_BYTES[unit]}{unit}"
    return f"{size_bytes}B"


def parse_speed(text: str) -> float:
    """Return how many times as fast as recorded, 0 for ``full``; ValueError says what was
    expected."""
    if text.strip() == "full":
        return 0.0
    match = _SPEED.fullmatch(text)
    speed = float(match[1]) if match else 0.0
    if not speed:
        raise ValueError("must be full, or a factor of recorded time such as 1x, 60x, 0.5x")
    return speed


def format_speed(speed: float) -> str:
    """Return a speed as text, such as ``60x``; 0 is ``full``."""
    return f"{speed:.9g}x" if speed else "full"


def _parse(text: str, units: dict[str, int], expected: str) -> int:
    match = _QUANTITY.fullmatch(text)
    factor = units.get(match[2]) if match else None
    if match is None or factor is None:
        raise ValueError(f"must be {expected}")
    amount = Decimal(match[1]) * factor
    if amount != int(amount):
        raise ValueError(f"must be a whole number of {next(iter(units))}")
    return int(amount)
