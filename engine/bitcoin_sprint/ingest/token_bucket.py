"""A rate with a burst, for what a source may make us do."""

from __future__ import annotations


class TokenBucket:
    """At most ``burst`` at once and ``rate`` a second; full at the start. One thread."""

    __slots__ = ("_burst", "_left", "_rate", "_updated")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._updated = now

    def take(self, amount: float, now: float) -> bool:
        """Take ``amount`` at time ``now`` (seconds, monotonic); False when that is too much."""
        self._left = min(self._burst, self._left + (now - self._updated) * self._rate)
        self._updated = now
        if amount > self._left:
            return False
        self._left -= amount
        return True
