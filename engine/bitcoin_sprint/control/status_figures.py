"""How sources stand and tiers do, out of the counters of ingest and of the relays."""

from __future__ import annotations

import time

import msgspec

from bitcoin_sprint.ingest.source_state import SourceState
from bitcoin_sprint.metrics import Snapshot


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One node, peer or file set, and the episode that it is in.

    ``since_s``: for how long it has stood so. ``attempts`` in vain of the episode under way or the
    last one, ``episodes`` of trouble up to now. ``…_won``: what it was first to bring.
    """

    name: str
    state: str
    up: bool
    since_s: float
    attempts: int
    episodes: int
    headers_won: int
    blocks_won: int
    transactions_won: int


class RelayStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one tier does.

    ``delivery_success_rate``: frames sent, of those that its subscribers were to get; None before
    the first. ``buffer_utilisation``: how far the furthest of them is behind, of the tier's buffer.
    ``relay_us``: publish to first byte accepted, by percentile, microseconds.
    """

    tier: str
    subscribers: int
    zmq_topics_wanted: int
    frames_sent: int
    frames_missed: int
    frames_overwritten: int
    delivery_success_rate: float | None
    buffer_utilisation: float
    relay_us: dict[str, float]


def source_statuses(ingest: Snapshot | None) -> list[SourceStatus]:
    """Return every source of a living ingest process; none of another."""
    if ingest is None or not ingest["alive"]:
        return []
    figures: dict[str, dict[str, int]] = {}
    for key, value in ingest["counters"].items():
        source, _, figure = key.removeprefix("source.").rpartition(".")
        if key.startswith("source.") and source:
            figures.setdefault(source, {})[figure] = value
    return [_source(name, counts) for name, counts in figures.items() if "state" in counts]


def _source(name: str, counts: dict[str, int]) -> SourceStatus:
    number = counts["state"]
    known = number in SourceState.__members__.values()
    since_ns = counts.get("since", 0)
    return SourceStatus(
        name=name,
        state=SourceState(number).word if known else f"state {number}",
        up=bool(counts.get("up")),
        since_s=round(max(0, time.time_ns() - since_ns) / 1e9, 1) if since_ns else 0.0,
        attempts=counts.get("attempts", 0),
        episodes=counts.get("episodes", 0),
        headers_won=counts.get("headers_won", 0),
        blocks_won=counts.get("blocks_won", 0),
        transactions_won=counts.get("transactions_won", 0),
    )


def relay_status(relay: Snapshot) -> RelayStatus:
    """Return how a tier's worker does; zeros where it does not say."""
    counters = relay["counters"]
    times = relay["histograms"].get("relay_ns")
    sent, missed, overwritten = (
        counters.get(f"frames_{name}", 0) for name in ("sent", "missed", "overwritten")
    )
    due = sent + missed + overwritten
    percentiles = (50.0, 99.0, 99.9) if times is not None and times.count else ()
    return RelayStatus(
        tier=relay["process"].removeprefix("relay-"),
        subscribers=counters.get("subscribers", 0),
        zmq_topics_wanted=counters.get("zmq_topics_wanted", 0),
        frames_sent=sent,
        frames_missed=missed,
        frames_overwritten=overwritten,
        delivery_success_rate=round(sent / due, 6) if due else None,
        buffer_utilisation=round(
            counters.get("buffer_used_frames", 0) / max(1, counters.get("buffer_frames", 0)), 4
        ),
        relay_us={
            f"p{percent:g}": round(times.percentile(percent) / 1000, 1)
            for percent in percentiles
            if times is not None
        },
    )
