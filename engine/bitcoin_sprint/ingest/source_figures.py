"""How each source stands, as counters of the ingest process.

Of each source, as ``source.<name>.<figure>``: ``state`` (a ``SourceState``), ``since`` (when it
came to stand so, CLOCK_REALTIME ns), ``up``, ``attempts`` in vain of the episode under way or the
last one, ``episodes`` up to now, ``dropped``, and what its feed counts itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bitcoin_sprint.episode import Episode
from bitcoin_sprint.ingest.feed import Feed
from bitcoin_sprint.ingest.source_state import SourceState
from bitcoin_sprint.metrics import Counters

FEED_COUNTS: Final = frozenset({"connections", "bytes_received", "gaps", "messages_lost"})
"""What of a feed's own figures becomes counters, beside its ``progress``."""
FIGURES_PER_SOURCE_MAX: Final = 20


class SourceFigures:
    """Writes them into ``counters`` (borrowed). One thread."""

    def __init__(self, counters: Counters, feeds: Sequence[Feed]) -> None:
        self._counters = counters
        self._feeds = feeds
        self._states: dict[str, SourceState] = {}
        self._broken: dict[str, Episode[SourceState]] = {}

    def report(self) -> None:
        """Show how each source stands now; to be called about once a second."""
        for feed in self._feeds:
            snapshot = feed.snapshot()
            figures = _own_figures(snapshot)
            state = self._state_of(feed, snapshot)
            if self._states.get(feed.name) is not state:
                self._states[feed.name] = state
                figures["since"] = time.time_ns()
            figures["state"] = state
            figures["up"] = int(snapshot.get("up", state.is_up))
            for name, value in figures.items():
                self._counters.counter(f"source.{feed.name}.{name}").set(value)

    def broken(self, feed: Feed) -> Episode[SourceState]:
        """The episode of a feed that fails by a fault of ours; its owner tells it."""
        return self._broken.setdefault(feed.name, Episode(feed.name))

    def _state_of(self, feed: Feed, snapshot: Mapping[str, Any]) -> SourceState:
        episode = self._broken.get(feed.name)
        if episode is not None and episode.state is not None:
            return episode.state
        return SourceState.of(snapshot["state"])


def _own_figures(snapshot: Mapping[str, Any]) -> dict[str, int]:
    figures = {name: snapshot[name] for name in FEED_COUNTS if name in snapshot}
    figures |= {n: v for n, v in snapshot.get("counts", {}).items() if n in FEED_COUNTS}
    figures |= snapshot.get("progress", {})
    figures["dropped"] = sum(snapshot.get("dropped", {}).values())
    figures["attempts"] = snapshot.get("attempts", 0)
    figures["episodes"] = snapshot.get("episodes", 0)
    return figures


class ConnectedWatch:
    """Notices that no trusted node is left, so that level ``connected`` stands still.

    ``is_heard``: whether the drop-in topics speak at that level.
    """

    def __init__(self, feeds: Sequence[Feed], *, is_heard: bool) -> None:
        self._feeds = [feed for feed in feeds if feed.source.trusted]
        self._is_heard = is_heard
        self._episode = Episode[SourceState]("trusted nodes")
        self._was_up = False

    def look(self) -> bool:
        """Whether level ``connected`` goes on; told where that changes."""
        if not self._feeds:
            return False
        if any(_is_up(feed) for feed in self._feeds):
            self._episode.end()
            return True
        states = {feed.name: feed.snapshot()["state"] for feed in self._feeds}
        if all(state == SourceState.CONNECTING.word for state in states.values()):
            return False
        silent = "the drop-in block topics are silent, " if self._is_heard else ""
        shown = ", ".join(f"{name} {state}" for name, state in states.items())
        self._episode.fail(
            SourceState.DOWN,
            f"none is up ({shown}): {silent}nothing reaches level connected; "
            "blocks of level merkle go on",
            is_attempt=False,
        )
        return False


def _is_up(feed: Feed) -> bool:
    snapshot = feed.snapshot()
    return bool(snapshot.get("up", SourceState.of(snapshot["state"]).is_up))
