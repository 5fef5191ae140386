"""The line that operators grep for: one for each block that a tight tier relayed."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Final

from bitcoin_sprint.frames import Kind
from bitcoin_sprint.transports.window import Entry

_log = logging.getLogger(__name__)

_REMEMBERED: Final = 256


class BlockLog:
    """Collects what a turn relayed and says it afterwards, so that no subscriber waits for a log.

    ``elapsed`` is from publish to the first byte accepted by the last subscriber of that turn.
    """

    def __init__(self) -> None:
        self._pending: dict[bytes, int] = {}
        self._said: OrderedDict[bytes, None] = OrderedDict()

    def note(self, entry: Entry, elapsed_ns: int) -> None:
        """A subscriber's socket took the first byte of a frame."""
        if entry.kind in (Kind.HEADER, Kind.BLOCK) and entry.hash not in self._said:
            self._pending[entry.hash] = max(elapsed_ns, self._pending.get(entry.hash, 0))

    def say(self) -> None:
        """Log the blocks relayed since the last call, each hash once."""
        if not self._pending:
            return
        for block_hash, elapsed_ns in self._pending.items():
            self._said[block_hash] = None
            _log.info(
                "Turbo relay successful: elapsed=%s blockHash=%s",
                readable_duration(elapsed_ns),
                block_hash[::-1].hex(),
                extra={"elapsed_ns": elapsed_ns},
            )
        self._pending.clear()
        while len(self._said) > _REMEMBERED:
            self._said.popitem(last=False)


def readable_duration(nanoseconds: int) -> str:
    """A duration with one unit and at most three decimals: 245µs, 1.204ms, 2.5s."""
    if nanoseconds < 1_000_000:
        return f"{nanoseconds // 1_000}µs"
    if nanoseconds < 1_000_000_000:
        return f"{nanoseconds // 1_000 / 1_000:g}ms"
    return f"{nanoseconds // 1_000_000 / 1_000:g}s"
