"""Headers that are in order but not to be believed yet: bounded, published later or never.

Two reasons hold a header back, and neither is its sender's fault. Its chain has too little work
(a fork from far below the tip costs next to nothing where difficulty was low): then it stays out
of the header chain, whose memory such a fork could fill, until the headers held together reach
the bound. Or its time is too far ahead of our clock: then it is tried again when that time has
come. Both memories are bounded in all and for each source, so one source can't fill them.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from bitcoin_sprint.ingest.feed import Source

FORK_HEADERS_MAX: Final = 16_384
FORK_HEADERS_PER_SOURCE_MAX: Final = 4_096
FUTURE_HEADERS_MAX: Final = 256
FUTURE_HEADERS_PER_SOURCE_MAX: Final = 32


class HeldHeader(NamedTuple):
    """A header held back. ``work`` is what its chain claims in all, its own proof checked."""

    hash: bytes
    header: bytes
    work: int
    source: Source

    @property
    def parent(self) -> bytes:
        """Hash of the block before it."""
        return self.header[4:36]


class ForkHeaders:
    """Headers of forks that have too little work. One thread."""

    def __init__(
        self,
        capacity: int = FORK_HEADERS_MAX,
        capacity_per_source: int = FORK_HEADERS_PER_SOURCE_MAX,
    ) -> None:
        self._capacity = capacity
        self._capacity_per_source = capacity_per_source
        self._held: dict[bytes, HeldHeader] = {}
        self._held_by_source: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, hash: bytes) -> bool:
        return hash in self._held

    def get(self, hash: bytes) -> HeldHeader | None:
        """Return the header held under ``hash``."""
        return self._held.get(hash)

    def add(self, held: HeldHeader) -> bool:
        """Hold ``held``; False when its source holds as many as it may, or all room is taken."""
        if held.hash in self._held:
            return True
        if self._held_by_source[held.source.index] >= self._capacity_per_source:
            return False
        if len(self._held) >= self._capacity and not self._drop_oldest_of_busiest(held.source):
            return False
        self._held[held.hash] = held
        self._held_by_source[held.source.index] += 1
        return True

    def branch_to(self, hash: bytes) -> list[HeldHeader]:
        """Return the held headers that lead to ``hash`` and ``hash`` itself, oldest first."""
        branch = []
        held = self._held.get(hash)
        while held is not None:
            branch.append(held)
            held = self._held.get(held.parent)
        branch.reverse()
        return branch

    def discard(self, hash: bytes) -> None:
        """Let go of ``hash``: it was published, or turned out to be wrong."""
        held = self._held.pop(hash, None)
        if held is not None:
            self._held_by_source[held.source.index] -= 1

    def _drop_oldest_of_busiest(self, newcomer: Source) -> bool:
        busiest, count = self._held_by_source.most_common(1)[0]
        if count <= self._held_by_source[newcomer.index]:
            return False
        oldest = next(hash for hash, held in self._held.items() if held.source.index == busiest)
        self.discard(oldest)
        return True


class FutureHeaders:
    """Headers whose time is too far ahead, and those that build on them. One thread."""

    def __init__(
        self,
        capacity: int = FUTURE_HEADERS_MAX,
        capacity_per_source: int = FUTURE_HEADERS_PER_SOURCE_MAX,
    ) -> None:
        self._capacity = capacity
        self._capacity_per_source = capacity_per_source
        # (when to try, order of arrival, source, hash, header); the order keeps parents first.
        self._heap: list[tuple[float, int, Source, bytes, bytes]] = []
        self._due: dict[bytes, float] = {}
        self._held_by_source: Counter[int] = Counter()
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._heap)

    def __contains__(self, hash: bytes) -> bool:
        return hash in self._due

    def add(self, source: Source, hash: bytes, header: bytes, due: float) -> bool:
        """Hold ``header`` until ``due`` (Unix time, seconds); False when there is no room.

        One that builds on a header held here is never due before it.
        """
        if hash in self._due:
            return True
        if (
            len(self._heap) >= self._capacity
            or self._held_by_source[source.index] >= self._capacity_per_source
        ):
            return False
        due = max(due, self._due.get(header[4:36], due))
        self._arrivals += 1
        heapq.heappush(self._heap, (due, self._arrivals, source, hash, header))
        self._due[hash] = due
        self._held_by_source[source.index] += 1
        return True

    @property
    def due_last(self) -> float:
        """When the last of them will be tried, Unix time; 0 where there is none."""
        return max(self._due.values(), default=0.0)

    def take_due(self, now: float) -> Sequence[tuple[Source, bytes]]:
        """Return (source, header) of those whose time has come, parents first, and forget them."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            _, _, source, hash, header = heapq.heappop(self._heap)
            del self._due[hash]
            self._held_by_source[source.index] -= 1
            due.append((source, header))
        return due
