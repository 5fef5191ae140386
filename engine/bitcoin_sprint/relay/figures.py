"""A worker's figures in shared memory, where ``sprint stat`` and others read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bitcoin_sprint.metrics import Counters, Histogram
from bitcoin_sprint.tiers.cursor import Tally

COUNTERS: Final = (
    "frames_sent",
    "frames_missed",
    "frames_overwritten",
    "frames_late_queue",
    "frames_late_peer",
    "frames_aborted",
    "bytes_sent",
    "gaps",
    "subscribers",
    "subscribers_refused",
    "subscribers_stalled",
    "descriptor_shortages",
    "buffer_used_frames",
    "buffer_frames",
    "zmq_sent",
    "zmq_bytes",
    "zmq_topics_wanted",
    "zmq_lost",
)
"""``gaps``: frames that the ring overwrote before the worker itself saw them.
``buffer_used_frames``: how far the furthest subscriber is behind, of ``buffer_frames``.
``descriptor_shortages``: how often the host had no descriptor left for a subscriber.
``zmq_lost``: what the drop-in topics could not send because it was overwritten."""


class Figures:
    """One worker's counters. Owned by one thread."""

    def __init__(self, instance: str, tier: str, labels: Mapping[str, str]) -> None:
        self._counters = Counters.create(
            instance, f"relay-{tier}", COUNTERS, ["relay_ns"], {"tier": tier, **labels}
        )
        self.relay_times: Histogram = self._counters.histogram("relay_ns")
        """Publish to first byte accepted by a subscriber's socket."""

    def set_tally(self, tally: Tally) -> None:
        counters = self._counters
        counters["frames_sent"].set(tally.sent)
        counters["frames_missed"].set(tally.missed)
        counters["frames_overwritten"].set(tally.overwritten)
        counters["frames_late_queue"].set(tally.late_queue)
        counters["frames_late_peer"].set(tally.late_peer)
        counters["frames_aborted"].set(tally.aborted)
        counters["bytes_sent"].set(tally.bytes)

    def set(self, name: str, value: int) -> None:
        self._counters[name].set(value)

    def beat(self) -> None:
        """Say that the worker lives."""
        self._counters.heartbeat()

    def close(self) -> None:
        self._counters.close()
