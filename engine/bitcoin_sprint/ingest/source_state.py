"""How a source stands: the words of ``source.<name>.state``."""

from __future__ import annotations

import enum
from typing import Final


class SourceState(enum.IntEnum):
    """The value of the ingest process's counter ``source.<name>.state``; never renumbered."""

    STOPPED = 0
    WAITING = 1
    """Its turn has not come."""
    CONNECTING = 2
    """No attempt has ended yet."""
    READY = 3
    SYNCING = 4
    """Well, but in its own initial download: what it says is old."""
    SILENT = 5
    """Its ZeroMQ notifiers say nothing of its blocks; it is polled by RPC."""
    NO_RPC = 6
    """ZeroMQ goes on without RPC: holes stay until other sources fill them."""
    NO_ZMQ = 7
    """RPC answers, but no ZeroMQ connection stands; it is polled by RPC."""
    DONE = 8
    """It came to its end."""
    DOWN = 9
    NO_HANDSHAKE = 10
    """Something takes connections there and does not shake hands as a node of our network."""
    WARMING_UP = 11
    """The node starts; its RPC answers that it does not answer yet."""
    UNAUTHORIZED = 12
    """It refuses our credentials."""
    WRONG_NETWORK = 13
    BANNED = 14
    """It lied, and is left alone for a time."""
    UNFIT = 15
    """Too old, without the services that we need, or ourselves."""
    BROKEN = 16
    """Its feed failed by a fault of ours, and is started again."""

    @property
    def word(self) -> str:
        """As it is shown: ``no rpc``."""
        return self.name.lower().replace("_", " ")

    @classmethod
    def of(cls, word: str) -> SourceState:
        """The state that is shown so."""
        return cls[word.upper().replace(" ", "_")]

    @property
    def is_up(self) -> bool:
        """Whether blocks are to be expected from a source that stands so."""
        return self in _UP


_UP: Final = frozenset(
    {
        SourceState.READY,
        SourceState.SYNCING,
        SourceState.SILENT,
        SourceState.NO_RPC,
        SourceState.NO_ZMQ,
    }
)
