"""Log-linear histograms of non-negative integers (nanoseconds, bytes), after HdrHistogram's idea.

Each power of two is cut into 32 equal buckets, so that a percentile is off by at most 1/64 of
its value (1.6 %) and small values (below 64) are exact. A histogram is a row of u64 words: its
own memory or a slice of a counters segment, where a reader in another process takes snapshots.

Invariants: only the owner writes; words only grow. A snapshot's count is the sum of the buckets
that it copied, so it is consistent in itself whatever the writer does meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

SUB_BUCKET_BITS: Final = 5
_SUB_BUCKETS: Final = 1 << SUB_BUCKET_BITS
VALUE_BITS_MAX: Final = 44
"""Values of 2**44 and more (4.9 hours in nanoseconds) are counted in the last bucket."""
BUCKET_COUNT: Final = (VALUE_BITS_MAX - SUB_BUCKET_BITS + 1) * _SUB_BUCKETS
_PREFIX_WORDS: Final = 3  # sum, smallest value + 1 (0: none yet), largest value
WORD_COUNT: Final = _PREFIX_WORDS + BUCKET_COUNT
"""u64 words that one histogram takes in a segment."""

_VALUE_MAX: Final = (1 << VALUE_BITS_MAX) - 1


def bucket_index(value: int) -> int:
    """Return the bucket of ``value``, which must lie within 0 and 2**44 - 1."""
    shift = value.bit_length() - (SUB_BUCKET_BITS + 1)
    if shift <= 0:
        return value
    return (shift << SUB_BUCKET_BITS) + (value >> shift)


def bucket_bounds(index: int) -> tuple[int, int]:
    """Return the smallest and the largest value that fall into bucket ``index``."""
    shift = (index >> SUB_BUCKET_BITS) - 1
    if shift <= 0:
        return index, index
    low = (index - (shift << SUB_BUCKET_BITS)) << shift
    return low, low + (1 << shift) - 1


class HistogramSnapshot(msgspec.Struct, frozen=True):
    """What a histogram held at one moment. Values in the unit that was recorded.

    ``buckets`` maps a bucket's index to its count, empty buckets left out.
    """

    count: int
    sum: int
    min: int
    max: int
    buckets: dict[int, int]

    @property
    def mean(self) -> float:
        """Arithmetic mean, 0 when nothing was recorded."""
        return self.sum / self.count if self.count else 0.0

    def percentile(self, percent: float) -> int:
        """Return the value that ``percent`` (0 to 100) of the records do not exceed.

        Off by at most 1.6 % of the value; the exact minimum at 0 and maximum at 100; 0 when
        nothing was recorded. Raises ValueError outside 0 to 100.
        """
        if not 0.0 <= percent <= 100.0:
            raise ValueError(f"percentile {percent}: must be 0 to 100")
        if self.count == 0:
            return 0
        if percent == 0.0:
            return self.min
        if percent == 100.0:
            return self.max
        rank = percent * self.count / 100.0
        below = 0
        for index in sorted(self.buckets):
            below += self.buckets[index]
            if below >= rank:
                low, high = bucket_bounds(index)
                return max(self.min, min(self.max, (low + high + 1) // 2))
        return self.max

    def merge(self, other: HistogramSnapshot) -> HistogramSnapshot:
        """Return what one histogram would hold that had recorded both."""
        if not other.count:
            return self
        if not self.count:
            return other
        buckets = dict(self.buckets)
        for index, count in other.buckets.items():
            buckets[index] = buckets.get(index, 0) + count
        return HistogramSnapshot(
            count=self.count + other.count,
            sum=self.sum + other.sum,
            min=min(self.min, other.min),
            max=max(self.max, other.max),
            buckets=buckets,
        )

    def since(self, earlier: HistogramSnapshot) -> HistogramSnapshot:
        """Return what was recorded between ``earlier`` and this snapshot of one histogram.

        The extremes of an interval are not kept: they are the bounds of its outer buckets.
        """
        buckets = {
            index: count - earlier.buckets.get(index, 0)
            for index, count in self.buckets.items()
            if count > earlier.buckets.get(index, 0)
        }
        if not buckets:
            return EMPTY
        return HistogramSnapshot(
            count=sum(buckets.values()),
            sum=self.sum - earlier.sum,
            min=max(self.min, bucket_bounds(min(buckets))[0]),
            max=min(self.max, bucket_bounds(max(buckets))[1]),
            buckets=buckets,
        )


EMPTY: Final = HistogramSnapshot(count=0, sum=0, min=0, max=0, buckets={})


class Histogram:
    """A histogram that one thread of one process records into.

    ``words``: a writable memoryview of format ``Q`` and ``WORD_COUNT`` items, borrowed (a part of
    a counters segment); None keeps the words in private memory.
    """

    __slots__ = ("_words",)

    def __init__(self, words: memoryview | None = None) -> None:
        if words is None:
            words = memoryview(bytearray(WORD_COUNT * 8)).cast("Q")
        if len(words) != WORD_COUNT or words.format != "Q":
            raise ValueError(f"a histogram takes {WORD_COUNT} words of u64, not {len(words)}")
        self._words = words

    def record(self, value: int) -> None:
        """Count one ``value``; below 0 counts as 0 (a clock that stepped back), and 2**44 or more
        as the largest."""
        if value < 0:
            value = 0
        elif value > _VALUE_MAX:
            value = _VALUE_MAX
        words = self._words
        shift = value.bit_length() - (SUB_BUCKET_BITS + 1)
        index = value if shift <= 0 else (shift << SUB_BUCKET_BITS) + (value >> shift)
        words[0] += value
        smallest = words[1]
        if value < smallest - 1 or not smallest:
            words[1] = value + 1
        if value > words[2]:
            words[2] = value
        words[_PREFIX_WORDS + index] += 1

    def record_many(self, values: Iterable[int]) -> None:
        """Count every value of ``values``."""
        for value in values:
            self.record(value)

    def snapshot(self) -> HistogramSnapshot:
        """Return what is recorded now."""
        return snapshot_of(self._words)

    def release(self) -> None:
        """Let go of the words; the histogram must not be used afterwards."""
        self._words.release()


def snapshot_of(words: memoryview) -> HistogramSnapshot:
    """Return the snapshot of a histogram's words, which another process may be writing."""
    copied: npt.NDArray[np.uint64] = np.frombuffer(words.tobytes(), dtype=np.uint64)
    counts = copied[_PREFIX_WORDS:]
    filled = np.flatnonzero(counts)
    if not len(filled):
        return EMPTY
    buckets = {int(index): int(counts[index]) for index in filled}
    # The extremes are written before the bucket, yet a torn look may miss them: bound them.
    low, high = bucket_bounds(int(filled[0]))[0], bucket_bounds(int(filled[-1]))[1]
    smallest = int(copied[1]) - 1
    return HistogramSnapshot(
        count=sum(buckets.values()),
        sum=int(copied[0]),
        min=max(smallest, low),
        max=min(int(copied[2]), high),
        buckets=buckets,
    )
