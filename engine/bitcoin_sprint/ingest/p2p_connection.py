"""One connection to a Bitcoin peer that we opened: handshake, keepalive, messages both ways.

The connection is an ``asyncio.BufferedProtocol``: bytes go from the socket straight to where
``FrameReader`` wants them, and every message is handled in the call that brought its last byte.
There is no queue between socket and feed, so a slow feed slows its peers by TCP's own window, and
a peer can't make us hold more than its reader does.

It has no timers. ``check`` compares its deadlines with the clock it is given and is called a few
times a second by the owner, so that tests hold the clock. A connection ends exactly once, by
``close``, and tells its owner why.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Collection
from typing import Final, Protocol, cast

import msgspec

from bitcoin_sprint.ingest import p2p_messages as messages
from bitcoin_sprint.ingest.feed import Stamps
from bitcoin_sprint.ingest.p2p_causes import Cause, PeerFault
from bitcoin_sprint.ingest.p2p_fields import MalformedMessage, NetworkAddress
from bitcoin_sprint.ingest.p2p_framing import BLOCK_HEADER_BYTES, MESSAGE_BYTES_MAX, FrameReader
from bitcoin_sprint.ingest.p2p_messages import Message
from bitcoin_sprint.ingest.token_bucket import TokenBucket

WTXID_RELAY_VERSION: Final = 70016
OUTGOING_BYTES_MAX: Final = 1 << 20
"""What may wait for a peer to read; we say little, so one with more does not read at all."""

_HANDLED: Final = frozenset(messages.DECODERS) - {"addr", "addrv2", "version", "verack"}
_PUSHED: Final = frozenset({"block", "tx", "headers"})
"""Answers to our own questions, bounded by the feed that asked; all else has a budget."""

_UNREAD_COST: Final = 100
"""What a long message that nobody reads costs of that budget: it costs us its bytes."""


class ConnectionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How one connection behaves; durations in seconds."""

    magic: bytes
    user_agent: str
    protocol_version: int = messages.PROTOCOL_VERSION
    protocol_version_min: int = 70002
    services_required: int = 0b1001
    block_bytes_max: int = MESSAGE_BYTES_MAX
    relay_transactions: bool = True
    handshake_s: float = 10.0
    ping_interval_s: float = 30.0
    ping_timeout_s: float = 60.0
    message_s: float = 20.0
    """A started message is whole within this, and a second more for each ``bytes_per_s_min``."""
    bytes_per_s_min: int = 16_384
    bad_checksums_max: int = 2
    """Bad checksums in one connection that are passed over; one more ends it."""
    messages_per_s: float = 500.0
    messages_burst: int = 10_000


class ConnectionOwner(Protocol):
    """Who is told. Called synchronously; may close the connection from within any call."""

    def on_ready(self) -> None:
        """The handshake is done."""
        ...

    def on_message(self, message: Message, stamps: Stamps) -> None:
        """A message other than those of handshake and keepalive.

        A block's ``raw`` is the owner's to keep; any other view lives for the call alone.
        """
        ...

    def on_block_head(self, header: bytes, stamps: Stamps) -> bool:
        """A block's first 80 bytes are in; False drains the rest unseen."""
        ...

    def on_bad_block_checksum(self) -> None:
        """The block that ``on_block_head`` last spoke of came broken."""
        ...

    def on_closed(self, cause: Cause, detail: str) -> None:
        """The connection is over; called once."""
        ...


class Connection(asyncio.BufferedProtocol):
    """See the module. ``own_nonces`` holds the nonces of all our connections, to know ourselves.

    ``clock``: seconds, monotonic. ``realtime_ns``: CLOCK_REALTIME.
    """

    def __init__(
        self,
        options: ConnectionOptions,
        owner: ConnectionOwner,
        own_nonces: Collection[int] = (),
        *,
        nonce: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        realtime_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._options = options
        self._owner = owner
        self._own_nonces = own_nonces
        self._clock = clock
        self._realtime_ns = realtime_ns
        self._reader = FrameReader(options.magic, self)
        self._transport: asyncio.Transport | None = None
        self._opened_at = self._sent_ping_at = clock()
        self._partial_first_ns = 0
        self._partial_since = 0.0
        self._ping_nonce: int | None = None
        self._pong_due = 0.0
        self._budget = TokenBucket(options.messages_per_s, options.messages_burst, clock())
        self.nonce = secrets.randbits(64) if nonce is None else nonce
        self.peer_version: messages.Version | None = None
        self.wtxid_relay = False
        self.ready = False
        self.closed_by: Cause | None = None
        self.round_trip_s: float | None = None
        self.bad_checksums = 0
        self.bytes_sent = 0
        self.messages_received = 0

    # What the owner says.

    def send(self, message: Message) -> None:
        """Write a message; nothing after the connection has ended."""
        if self.closed_by is not None or self._transport is None:
            return
        frame = messages.pack_message(self._options.magic, message)
        self.bytes_sent += len(frame)
        self._transport.write(frame)
        if self._transport.get_write_buffer_size() > OUTGOING_BYTES_MAX:
            self.close(Cause.NOT_READING, f"{OUTGOING_BYTES_MAX} bytes wait for it")

    def close(self, cause: Cause, detail: str = "") -> None:
        """End the connection now and tell the owner; later calls do nothing."""
        if self.closed_by is not None:
            return
        self.closed_by = cause
        self.ready = False
        self._reader.stop()
        if self._transport is not None:
            self._transport.abort()
        self._owner.on_closed(cause, detail)

    def check(self) -> None:
        """Hold the deadlines against the clock: handshake, started messages, ping."""
        if self.closed_by is not None:
            return
        now, options = self._clock(), self._options
        if not self.ready and now - self._opened_at > options.handshake_s:
            self.close(Cause.HANDSHAKE_TIMEOUT, f"none within {options.handshake_s:g} s")
        elif self._is_message_late(now):
            self.close(Cause.SLOW_MESSAGE, f"{self._reader.partial_length} bytes announced")
        elif self._ping_nonce is not None:
            if self._reader.partial_length:
                # The pong stands in line behind a long message, which has a bound of its own.
                self._pong_due = max(self._pong_due, now + options.ping_timeout_s)
            elif now > self._pong_due:
                self.close(Cause.PING_TIMEOUT, f"no pong within {options.ping_timeout_s:g} s")
        elif self.ready and now - self._sent_ping_at > options.ping_interval_s:
            self.ping()

    def ping(self) -> None:
        """Ask for a sign of life; its round trip becomes ``round_trip_s``."""
        self._ping_nonce = secrets.randbits(64)
        self._sent_ping_at = self._clock()
        self._pong_due = self._sent_ping_at + self._options.ping_timeout_s
        self.send(messages.Ping(self._ping_nonce))

    @property
    def user_agent(self) -> str:
        """What the peer calls itself, without what could disturb a log or a terminal."""
        agent = self.peer_version.user_agent if self.peer_version is not None else ""
        return "".join(each if each.isascii() and each.isprintable() else "?" for each in agent)

    @property
    def state(self) -> str:
        """``connecting``, ``handshake``, ``ready`` or ``closed``."""
        if self.closed_by is not None:
            return "closed"
        if self._transport is None:
            return "connecting"
        return "ready" if self.ready else "handshake"

    @property
    def bytes_received(self) -> int:
        return self._reader.bytes_received

    @property
    def receiving_bytes(self) -> int:
        """Announced length of the long message that is being received, else 0."""
        return self._reader.partial_length

    def _is_message_late(self, now: float) -> bool:
        if self._reader.partial_since_ns != self._partial_first_ns:
            # A message started since the last look; its time runs from then at the latest.
            self._note_partial(now)
        if not self._partial_first_ns:
            return False
        allowance = self._reader.partial_length / self._options.bytes_per_s_min
        return now - self._partial_since > self._options.message_s + allowance

    def _note_partial(self, now: float) -> None:
        self._partial_first_ns = self._reader.partial_since_ns
        self._partial_since = now

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self.closed_by is not None:
            self._transport.abort()
            return
        peer, own = (self._transport.get_extra_info(key) for key in ("peername", "sockname"))
        options = self._options
        self.send(
            messages.Version(
                version=options.protocol_version,
                services=messages.Services.NONE,
                timestamp=self._realtime_ns() // 1_000_000_000,
                receiver=NetworkAddress.of(peer[0], peer[1]) if peer else NetworkAddress(),
                sender=NetworkAddress.of("::", own[1]) if own else NetworkAddress(),
                nonce=self.nonce,
                user_agent=options.user_agent,
                start_height=0,
                relay=options.relay_transactions,
            )
        )

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the reader knows better
        return self._reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self._reader.received(nbytes, self._realtime_ns())
        except PeerFault as fault:
            self.close(fault.cause, fault.detail)
        if self._reader.partial_since_ns != self._partial_first_ns:
            self._note_partial(self._clock())

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        detail = getattr(exc, "strerror", None) or str(exc) if exc else "closed by the peer"
        self.close(Cause.LOST, detail)

    # FrameSink

    def payload_bytes_max(self, command: str) -> int:
        return messages.payload_bytes_max(command, self._options.block_bytes_max)

    def reads(self, command: str) -> bool:
        if self.ready and command in _HANDLED:
            return True
        self._spend(_UNREAD_COST)
        return False

    def block_head(self, header: bytes, first_byte_ns: int) -> bool:
        return self._owner.on_block_head(header, Stamps(first_byte_ns=first_byte_ns))

    def bad_checksum(self, command: str, length: int) -> None:
        self.bad_checksums += 1
        if command == "block" and length >= BLOCK_HEADER_BYTES:
            self._owner.on_bad_block_checksum()
        if self.bad_checksums > self._options.bad_checksums_max:
            self.close(Cause.BAD_CHECKSUM, f"{self.bad_checksums} messages, the last a {command}")

    def frame(self, command: str, payload: memoryview, first_ns: int, last_ns: int) -> None:
        self.messages_received += 1
        if command not in _PUSHED:
            self._spend(1)
        try:
            message = messages.decode_message(command, payload) if self._speaks(command) else None
        except MalformedMessage as error:
            raise PeerFault(Cause.MALFORMED, f"{command}: {error}") from error
        if message is None:
            return
        match message:
            case messages.Ping(nonce):
                self.send(messages.Pong(nonce))
            case messages.Pong(nonce):
                self._take_pong(nonce)
            case messages.Version():
                self._take_version(message)
            case messages.WtxidRelay():
                self.wtxid_relay = self._options.protocol_version >= WTXID_RELAY_VERSION
            case messages.Verack():
                self._take_verack()
            case _:
                self._owner.on_message(message, Stamps(0, first_ns, last_ns))

    def _spend(self, cost: int) -> None:
        if not self._budget.take(cost, self._clock()):
            raise PeerFault(Cause.MESSAGE_FLOOD, f"above {self._options.messages_per_s:g} a second")

    def _speaks(self, command: str) -> bool:
        """Before the handshake is done only its own messages are heard, after it all others."""
        if self.ready:
            return command in _HANDLED and command != "wtxidrelay"
        return command in ("version", "verack", "wtxidrelay", "ping")

    def _take_version(self, version: messages.Version) -> None:
        options = self._options
        if self.peer_version is not None:
            raise PeerFault(Cause.MALFORMED, "a second version message")
        if version.nonce == self.nonce or version.nonce in self._own_nonces:
            raise PeerFault(Cause.SELF, "connected to ourselves")
        if version.version < options.protocol_version_min:
            detail = f"protocol {version.version}, at least {options.protocol_version_min} needed"
            raise PeerFault(Cause.OLD_PROTOCOL, detail)
        lacking = options.services_required & ~version.services
        if lacking:
            raise PeerFault(Cause.MISSING_SERVICES, f"lacks service bits {lacking:#x}")
        self.peer_version = version
        if min(version.version, options.protocol_version) >= WTXID_RELAY_VERSION:
            self.send(messages.WtxidRelay())
        self.send(messages.Verack())

    def _take_verack(self) -> None:
        if self.peer_version is None:
            raise PeerFault(Cause.MALFORMED, "verack before version")
        self.ready = True
        self.ping()
        self._owner.on_ready()

    def _take_pong(self, nonce: int) -> None:
        if nonce == self._ping_nonce:
            self._ping_nonce = None
            self.round_trip_s = self._clock() - self._sent_ping_at
