"""Finds a node whose notifiers died without a sign: its tip, by RPC, is another one than ZeroMQ
told, and still is the next time that we look.
"""

from __future__ import annotations

from bitcoin_sprint.ingest.node_rpc import ChainInfo


class SilenceWatch:
    """Compares the node's tip with what ZeroMQ told of it."""

    def __init__(self) -> None:
        self._suspected: tuple[bytes, bytes | None] | None = None
        self.told: bytes | None = None
        """The tip as last told; None while it can't be known."""
        self.is_silent = False
        self.episodes = 0

    @property
    def is_urgent(self) -> bool:
        """Whether to look again soon."""
        return self.is_silent or self._suspected is not None

    def hear(self, tip: bytes) -> None:
        """ZeroMQ told of a new tip."""
        self.told = tip
        self.is_silent = False

    def compare(self, info: ChainInfo) -> bool:
        """Whether ZeroMQ is behind the node for the second time running."""
        # During its initial block download a node tells of no new tips, by design.
        found = (info.best, self.told)
        if info.best == self.told or info.is_syncing:
            self._suspected = None
            return False
        if self._suspected != found:
            self._suspected = found
            return False
        self._suspected = None
        if not self.is_silent:
            self.is_silent = True
            self.episodes += 1
        return True
