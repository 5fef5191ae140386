"""Puts replayed blocks behind their parents, as Bitcoin Core's own reindexing does.

A node writes blocks as they arrive, which during its first synchronisation is up to 1,024 blocks
(its download window) out of order. A block whose parent is unknown waits for it, as its place in
the file alone; once more than that many wait, the one that came first goes out as it is: it stands
on nothing that we will see, as the first one of files from the middle of the chain does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from bitcoin_sprint.chains import Network
from bitcoin_sprint.ingest.first_seen import SeenSet

WAITING_MAX: Final = 1_024
GIVEN_KEPT: Final = 16_384
"""Blocks given that are remembered as parents, beside those whose headers ``knows`` knows."""


class Place(NamedTuple):
    """Where a block stands. ``again`` reads it once more, and raises OSError where it can't."""

    file: Path
    offset: int
    again: Callable[[], bytes]


class Turn(NamedTuple):
    """A block whose turn it is; ``raw`` is None where it is to be read again."""

    place: Place
    raw: memoryview | None = None


class Waiting(NamedTuple):
    """A block that waits for its parent."""

    hash: bytes
    parent: bytes
    place: Place


class ReplayOrder:
    """See the module. ``knows`` says whether a hash is a block whose header is known anyway.

    One thread. What ``take`` and ``rest`` return must be used up before the next call.
    """

    def __init__(self, network: Network, knows: Callable[[bytes], bool]) -> None:
        self._network = network
        self._knows = knows
        self._given = SeenSet(GIVEN_KEPT)
        self._by_parent: dict[bytes, list[Waiting]] = {}
        self._waiting: dict[Waiting, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, raw: memoryview, place: Place) -> Iterator[Turn]:
        """Take the next block of the files; return those whose turn it is now."""
        header = bytes(raw[:80])
        hash, parent = self._network.block_hash(header), header[4:36]
        if self._stands(parent) or hash == self._network.genesis_hash:
            self._given.add(hash)
            yield Turn(place, raw)
            yield from self._children_of(hash)
            return
        self._keep(Waiting(hash, parent, place))
        if len(self._waiting) > WAITING_MAX:
            yield from self._first_waiting()

    def rest(self) -> Iterator[Turn]:
        """Return those that still wait, now that no parent will come any more."""
        while self._waiting:
            yield from self._first_waiting()

    def _stands(self, parent: bytes) -> bool:
        return parent in self._given or self._knows(parent)

    def _keep(self, block: Waiting) -> None:
        self._by_parent.setdefault(block.parent, []).append(block)
        self._waiting[block] = None

    def _first_waiting(self) -> Iterator[Turn]:
        """The block that waits longest, or the lowest one that waits below it, and those on it."""
        first = next(iter(self._waiting))
        waiting = {block.hash: block for block in self._waiting}
        while first.parent in waiting:
            first = waiting[first.parent]
        siblings = self._by_parent[first.parent]
        siblings.remove(first)
        if not siblings:
            del self._by_parent[first.parent]
        del self._waiting[first]
        yield from self._released(first)

    def _children_of(self, hash: bytes) -> Iterator[Turn]:
        for child in self._by_parent.pop(hash, ()):
            del self._waiting[child]
            yield from self._released(child)

    def _released(self, block: Waiting) -> Iterator[Turn]:
        """``block`` and all that waits for it, parents first."""
        ready = [block]
        while ready:
            each = ready.pop()
            self._given.add(each.hash)
            yield Turn(each.place)
            children = self._by_parent.pop(each.hash, ())
            for child in children:
                del self._waiting[child]
            ready += reversed(children)
