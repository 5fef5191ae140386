"""What was seen already: bounded memories that forget the oldest first.

A hash is remembered only once what it names was proved: a wrong copy must never make the right
one look like a duplicate.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

Value = TypeVar("Value")


class BoundedMap(Generic[Value]):
    """A mapping of at most ``capacity`` hashes; the one set longest ago is forgotten first.

    One thread. Setting a hash again makes it the newest.
    """

    __slots__ = ("_capacity", "_values")

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity {capacity}: must be at least 1")
        self._capacity = capacity
        # A plain dict keeps the order too, but looks for its first key past all that were deleted
        # in front of it: 110 us for each hash, of 200,000 kept.
        self._values: OrderedDict[bytes, Value] = OrderedDict()

    def __contains__(self, hash: bytes) -> bool:
        return hash in self._values

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._values)

    def __setitem__(self, hash: bytes, value: Value) -> None:
        values = self._values
        values.pop(hash, None)
        values[hash] = value
        if len(values) > self._capacity:
            values.popitem(last=False)

    def get(self, hash: bytes) -> Value | None:
        """Return what was set for ``hash``, None when nothing was, or it is forgotten."""
        return self._values.get(hash)

    def pop(self, hash: bytes) -> Value | None:
        """Forget ``hash`` and return what was set for it."""
        return self._values.pop(hash, None)


class SeenSet:
    """A set of at most ``capacity`` hashes; the one added first is forgotten first. One thread."""

    __slots__ = ("_seen",)

    def __init__(self, capacity: int) -> None:
        self._seen: BoundedMap[None] = BoundedMap(capacity)

    def __contains__(self, hash: bytes) -> bool:
        return hash in self._seen

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, hash: bytes) -> bool:
        """Remember ``hash``; return whether it was new. One known keeps its age."""
        if hash in self._seen:
            return False
        self._seen[hash] = None
        return True

    def discard(self, hash: bytes) -> None:
        """Forget ``hash``, if it is there."""
        self._seen.pop(hash)
