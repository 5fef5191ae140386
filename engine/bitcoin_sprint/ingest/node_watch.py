"""What goes wrong with a node, noticed once and told once: trouble, and silence.

``Trouble`` turns a failure that repeats into one line when it begins and one when it ends.
``SilenceWatch`` finds a node whose notifiers died without a sign: its tip, by RPC, is another one
than ZeroMQ told, and still is the next time that we look.
"""

from __future__ import annotations

import logging
import time

from bitcoin_sprint.ingest.node_rpc import ChainInfo

_log = logging.getLogger(__name__)


class Trouble:
    """One feed's trouble. ``text`` is empty while all is well."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._since = 0.0
        self.text = ""
        self.episodes = 0

    def begin(self, text: str) -> None:
        """It fails, or fails still; ``text`` says why and what to do."""
        if not self.text:
            self._since = time.monotonic()
            self.episodes += 1
            _log.warning("%s: %s; trying on", self._name, text)
        self.text = text

    def end(self) -> None:
        """All is well."""
        if self.text:
            self.text = ""
            seconds = time.monotonic() - self._since
            _log.info("%s: well again after %.1f s", self._name, seconds)


class SilenceWatch:
    """Compares the node's tip with what ZeroMQ told of it."""

    def __init__(self, name: str) -> None:
        self._name = name
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
        if self.is_silent:
            self.is_silent = False
            _log.info("%s: its notifiers speak again", self._name)

    def compare(self, info: ChainInfo, cause: str) -> bool:
        """Whether ZeroMQ is behind the node for the second time running. ``cause`` is logged."""
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
            _log.warning("%s: %s; its tip is polled by RPC", self._name, cause)
        return True
