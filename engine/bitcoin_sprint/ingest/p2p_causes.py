"""Why a peer's connection ended, and what follows from it."""

from __future__ import annotations

import enum
from typing import Final

from bitcoin_sprint.errors import ProtocolError
from bitcoin_sprint.ingest.source_state import SourceState


class Cause(enum.StrEnum):
    """Why a connection ended. The value is the word in counters and logs."""

    # It lied, or sent what no honest peer sends: dropped, counted, banned for a time.
    WRONG_MAGIC = "wrong_magic"
    BAD_COMMAND = "bad_command"
    OVERSIZE = "oversize"
    BAD_CHECKSUM = "bad_checksum"
    MALFORMED = "malformed"
    BAD_HEADER = "bad_header"
    BAD_BLOCK = "bad_block"
    BAD_TRANSACTION = "bad_transaction"
    HEADERS_FLOOD = "headers_flood"
    UNREQUESTED = "unrequested"
    MESSAGE_FLOOD = "message_flood"

    # It is not what we look for: not banned, but not soon tried again.
    SELF = "self"
    OLD_PROTOCOL = "old_protocol"
    MISSING_SERVICES = "missing_services"

    # It is slow, broken or gone: tried again after a growing wait.
    UNREACHABLE = "unreachable"
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    PING_TIMEOUT = "ping_timeout"
    SLOW_MESSAGE = "slow_message"
    HEADERS_STALL = "headers_stall"
    BLOCK_STALL = "block_stall"
    NOT_READING = "not_reading"
    LOST = "lost"
    CLOSED = "closed"
    """We closed it, for no fault of the peer."""

    @property
    def is_lie(self) -> bool:
        """Whether its peer is banned for a time."""
        return self in _LIES

    @property
    def is_unfit(self) -> bool:
        """Whether asking the same peer again soon is pointless."""
        return self in _UNFIT

    def state(self, *, was_ready: bool) -> SourceState:
        """How a source stands whose connection ended so; ``was_ready``: after the handshake."""
        if self is Cause.WRONG_MAGIC:
            return SourceState.WRONG_NETWORK
        if self.is_lie:
            return SourceState.BANNED
        if self.is_unfit:
            return SourceState.UNFIT
        if was_ready or self is Cause.UNREACHABLE:
            return SourceState.DOWN
        return SourceState.NO_HANDSHAKE


_LIES: Final = frozenset(
    {
        Cause.WRONG_MAGIC,
        Cause.BAD_COMMAND,
        Cause.OVERSIZE,
        Cause.BAD_CHECKSUM,
        Cause.MALFORMED,
        Cause.BAD_HEADER,
        Cause.BAD_BLOCK,
        Cause.BAD_TRANSACTION,
        Cause.HEADERS_FLOOD,
        Cause.UNREQUESTED,
        Cause.MESSAGE_FLOOD,
    }
)
_UNFIT: Final = frozenset({Cause.SELF, Cause.OLD_PROTOCOL, Cause.MISSING_SERVICES})


class PeerFault(ProtocolError):
    """A peer did what its connection does not survive."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
        self.detail = detail
