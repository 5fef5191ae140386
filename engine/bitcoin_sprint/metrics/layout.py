"""The layout of a counters segment, ``/sprint.<instance>.counters.<process>``.

    header     128 bytes   magic, version, sizes, pid, clocks, table version
    labels   1,024 bytes   JSON object of text, zero-padded
    names       96 bytes   a counter, then a histogram: length, type, UTF-8 name
    values       8 bytes   a counter
    words   WORD_COUNT u64 a histogram

Design: one process writes, holding the segment's write lock for life; readers map it read-only.
A value is one aligned 64-bit word, so that no reader sees half of it. Labels and name tables may
change while readers look: the table version is odd during a change (a sequence lock, whose reader
tries again a bounded number of times). Magic is stored last, so that a half-made segment is no
segment. All integers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

import msgspec

from bitcoin_sprint.errors import Corrupt
from bitcoin_sprint.metrics.histogram import WORD_COUNT

MAGIC: Final = 0x4E434354_52505353  # "SSPRTCCN" in memory order
VERSION: Final = 1

HEADER_BYTES: Final = 128
LABELS_BYTES: Final = 4096 - HEADER_BYTES
NAME_BYTES: Final = 96
NAME_BYTES_MAX: Final = NAME_BYTES - 2

# Indexes of the header's u64 words.
WORD_MAGIC: Final = 0
WORD_VERSION: Final = 1
WORD_COUNTER_CAPACITY: Final = 2
WORD_HISTOGRAM_CAPACITY: Final = 3
WORD_PID: Final = 4
WORD_STARTED_NS: Final = 5  # CLOCK_REALTIME
WORD_HEARTBEAT_NS: Final = 6  # CLOCK_MONOTONIC
WORD_TABLE_VERSION: Final = 7
WORD_LABELS_LENGTH: Final = 8

TYPE_FREE: Final = 0
TYPE_COUNTER: Final = 1
TYPE_HISTOGRAM: Final = 2

_NAME = struct.Struct(f"<BB{NAME_BYTES_MAX}s")


class Layout(msgspec.Struct, frozen=True):
    """Offsets of a segment's parts for the capacities given."""

    counter_capacity: int
    histogram_capacity: int

    @property
    def names_offset(self) -> int:
        return HEADER_BYTES + LABELS_BYTES

    @property
    def values_offset(self) -> int:
        names = self.counter_capacity + self.histogram_capacity
        return self.names_offset + names * NAME_BYTES

    @property
    def words_offset(self) -> int:
        return self.values_offset + self.counter_capacity * 8

    @property
    def size_bytes(self) -> int:
        return self.words_offset + self.histogram_capacity * WORD_COUNT * 8


def segment_name(instance: str, process: str) -> str:
    """Return the POSIX shared-memory name of a process's counters."""
    return f"/sprint.{instance}.counters.{process}"


def check_name(name: str) -> bytes:
    """Return a counter's name as UTF-8; ValueError when empty or longer than 94 bytes."""
    encoded = name.encode()
    if not 0 < len(encoded) <= NAME_BYTES_MAX:
        raise ValueError(f"counter name {name!r}: must take 1 to {NAME_BYTES_MAX} bytes")
    return encoded


def pack_name(name: str, kind: int) -> bytes:
    """Return the table entry of ``name``."""
    encoded = check_name(name)
    return _NAME.pack(len(encoded), kind, encoded)


def unpack_name(entry: bytes | memoryview) -> tuple[str, int]:
    """Return name and type of a table entry (type ``TYPE_FREE``: nothing there)."""
    length, kind, encoded = _NAME.unpack(entry)
    if kind not in (TYPE_COUNTER, TYPE_HISTOGRAM) or length > NAME_BYTES_MAX:
        return "", TYPE_FREE
    return encoded[:length].decode(errors="replace"), kind


def pack_labels(labels: Mapping[str, str]) -> bytes:
    """Return labels as JSON; ValueError when they take more than 3,968 bytes."""
    encoded = msgspec.json.encode(dict(labels))
    if len(encoded) > LABELS_BYTES:
        raise ValueError(f"labels take {len(encoded)} bytes: at most {LABELS_BYTES}")
    return encoded


def read_layout(header: memoryview, size_bytes: int, name: str) -> Layout:
    """Check a mapped segment's header (u64 words); Corrupt says what is off."""
    if header[WORD_MAGIC] != MAGIC:
        raise Corrupt(f"{name}: not a counters segment (magic {header[WORD_MAGIC]:#x})")
    if header[WORD_VERSION] != VERSION:
        raise Corrupt(f"{name}: counters layout {header[WORD_VERSION]}, this is {VERSION}")
    layout = Layout(header[WORD_COUNTER_CAPACITY], header[WORD_HISTOGRAM_CAPACITY])
    if layout.size_bytes != size_bytes:
        raise Corrupt(f"{name}: {size_bytes} bytes where its header says {layout.size_bytes}")
    return layout
