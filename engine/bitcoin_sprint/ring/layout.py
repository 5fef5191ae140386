"""Names and numbers of the ring's shared memory; ``docs/ring.md`` is the specification.

``native/include/sprint.h`` has the same in C, ``tests/unit/ring/test_layout.py`` holds them
together.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Final

RING_NAMES: Final = ("blocks", "tx")
SHARED_MEMORY: Final = Path("/dev/shm")
"""Where POSIX shared memory lives on Linux."""

PAGE_BYTES: Final = 4096
HEADER_BYTES: Final = 4096
SLOTS_OFFSET: Final = 8192
SLOT_BYTES: Final = 128
SLOT_COUNT_MIN: Final = 4
SLOT_COUNT_MAX: Final = 1 << 24
ARENA_BYTES_MIN: Final = 4096
ARENA_BYTES_MAX: Final = 1 << 32
SOURCES_MAX: Final = 64
SOURCE_NAME_BYTES_MAX: Final = 59
WAKE_BYTES: Final = 4096
WAKE_FLAG_OFFSET: Final = 128
WAKE_LINE_BYTES: Final = 128
PAYLOAD_SHARE: Final = 2
"""One payload takes at most this part of the arena."""

DESCRIPTOR: Final = struct.Struct("<QQIIBBBxIiHxx32sQQQQQ16x")
"""seq, position, length, crc32c, kind, chain, level, flags, height, source, hash, publish_ns,
origin_ns, first_byte_ns, last_byte_ns, stamp_ns."""

_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")


def check_instance(instance: str) -> str:
    """The instance's name, or ValueError: 1 to 48 letters, digits, ``_`` and ``-``."""
    if not _INSTANCE.fullmatch(instance):
        raise ValueError(
            f"instance {instance!r}: 1 to 48 letters, digits, '_' and '-', no sign first"
        )
    return instance


def segment_path(instance: str, name: str, directory: Path | None = None) -> Path:
    """Where ring ``name`` of ``instance`` lives. ``directory``: a hugetlbfs mount, None: POSIX
    shm."""
    if name not in RING_NAMES:
        raise ValueError(f"ring {name!r}: the rings are {', '.join(RING_NAMES)}")
    return (directory or SHARED_MEMORY) / f"sprint.{check_instance(instance)}.{name}"


def wake_path(instance: str) -> Path:
    """The one object that readers may write. Always POSIX shm: hugetlbfs has no write()."""
    return SHARED_MEMORY / f"sprint.{check_instance(instance)}.wake"


def wake_offset(name: str) -> int:
    """Where in the wake object the flag of ring ``name`` stands."""
    return WAKE_FLAG_OFFSET + WAKE_LINE_BYTES * RING_NAMES.index(name)


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def segment_bytes(slot_count: int, arena_bytes: int) -> int:
    """Bytes of a segment with these sizes."""
    return round_up(SLOTS_OFFSET + slot_count * SLOT_BYTES, PAGE_BYTES) + arena_bytes
