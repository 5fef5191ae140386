"""Blocks that came before their parents' headers: a few are kept until those are here.

Their proof of work could only be checked against their own target, so they are few, for each
source and in all: enough for a race between a block and its parent's announcement, no more.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from bitcoin_sprint.ingest.feed import Source, Stamps
from bitcoin_sprint.validate import HeaderChain

ORPHANS_MAX: Final = 8
ORPHANS_PER_SOURCE_MAX: Final = 2


class Orphan(NamedTuple):
    """A block whose parent's header is unknown."""

    source: Source
    hash: bytes
    parent: bytes
    raw: bytes
    stamps: Stamps


class Orphans:
    """The blocks kept, oldest first. One thread."""

    def __init__(self) -> None:
        self._kept: list[Orphan] = []

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, source: Source, hash: bytes, raw: bytes, stamps: Stamps) -> None:
        """Keep a block; the oldest of its source makes room for it, then the oldest of all."""
        if any(orphan.hash == hash for orphan in self._kept):
            return
        own = [orphan for orphan in self._kept if orphan.source.index == source.index]
        if len(own) >= ORPHANS_PER_SOURCE_MAX:
            self._kept.remove(own[0])
        elif len(self._kept) >= ORPHANS_MAX:
            del self._kept[0]
        self._kept.append(Orphan(source, hash, raw[4:36], raw, stamps))

    def take_ready(self, chain: HeaderChain) -> list[Orphan]:
        """Return the blocks kept whose parents' headers are in ``chain`` now, and let them go."""
        if not self._kept:
            return []
        ready = [orphan for orphan in self._kept if chain.get(orphan.parent) is not None]
        for orphan in ready:
            self._kept.remove(orphan)
        return ready
