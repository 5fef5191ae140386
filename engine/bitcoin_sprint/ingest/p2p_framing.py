"""Framing of the Bitcoin P2P protocol, version 1: 24-byte headers, checksums, bytes to messages.

``FrameReader`` is a state machine without I/O, made for ``asyncio.BufferedProtocol``: ask it for
the buffer to receive into, tell it how many bytes came, and it calls its sink for each message.

- Small messages are received many at a time into one staging buffer and handed on as views.
- A block, or whatever does not fit the staging buffer, gets a buffer of its announced size, and
  what is still missing of it is received straight into that: no byte of it is copied after. Its
  checksum grows with the bytes, so that little is left to hash after the last one.
- A block's first 80 bytes are handed on as soon as they are in; the sink may refuse the rest.
- A refused body, and a long message that nobody reads, is drained without being stored.
- Whatever one peer sends, its reader holds at most the staging buffer and one message of the
  size that its sink allows for the command.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final, NamedTuple, Protocol, Self

import numpy as np

from bitcoin_sprint.ingest.p2p_causes import Cause, PeerFault
from bitcoin_sprint.ingest.p2p_fields import Buffer, MalformedMessage

HEADER_BYTES: Final = 24
COMMAND_BYTES: Final = 12
MESSAGE_BYTES_MAX: Final = 4_000_000
"""No message is longer (Core's ``MAX_PROTOCOL_MESSAGE_LENGTH``)."""

BLOCK_HEADER_BYTES: Final = 80
STAGING_BYTES: Final = 1 << 16
RECEIVE_BYTES_MAX: Final = 1 << 17
"""Most to receive at once of a long message: it is hashed piece by piece while more arrives, and
other peers have their turn between."""

_HEADER = struct.Struct("<4s12sI4s")


def checksum(payload: Buffer) -> bytes:
    """First four bytes of the double SHA-256 of a payload."""
    return hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4]


class MessageHeader(NamedTuple):
    """The 24 bytes before each payload."""

    magic: bytes
    command: str
    length: int
    checksum: bytes

    def encode(self) -> bytes:
        command = self.command.encode("ascii")
        if not 0 < len(command) <= COMMAND_BYTES:
            raise MalformedMessage(f"command {self.command!r} does not fit 12 bytes")
        return _HEADER.pack(self.magic, command, self.length, self.checksum)

    @classmethod
    def decode(cls, data: Buffer, offset: int = 0) -> Self:
        """Raises MalformedMessage unless the command is printable ASCII, zero-padded to 12 bytes.

        Magic and length are the caller's to judge: it knows its network and its limits.
        """
        magic, command, length, digest = _HEADER.unpack_from(data, offset)
        name = command.rstrip(b"\0")
        if not name or any(not 0x20 <= byte <= 0x7E for byte in name):
            raise MalformedMessage(f"command {command!r} is not zero-padded printable ASCII")
        return cls(magic, name.decode("ascii"), length, digest)


def pack_frame(magic: bytes, command: str, payload: Buffer) -> bytes:
    """Header and payload as they go on the wire."""
    header = MessageHeader(magic, command, len(payload), checksum(payload))
    return b"".join((header.encode(), payload))


class FrameSink(Protocol):
    """Who takes a reader's messages. Called synchronously, in the stream's order."""

    def payload_bytes_max(self, command: str) -> int:
        """The longest payload to accept for this command."""
        ...

    def reads(self, command: str) -> bool:
        """Whether a message of this command, if long, is wanted at all."""
        ...

    def block_head(self, header: bytes, first_byte_ns: int) -> bool:
        """The first 80 bytes of a block are in. False drains the rest unseen."""
        ...

    def frame(self, command: str, payload: memoryview, first_ns: int, last_ns: int) -> None:
        """A whole message with the right checksum.

        A block's payload is a buffer of its own, the sink's to keep. Any other is valid during
        the call alone.
        """
        ...

    def bad_checksum(self, command: str, length: int) -> None:
        """A message whose checksum is wrong; it is passed over."""
        ...


class _LongMessage:
    """One message that is received into a buffer of its own, or drained (``body`` is None)."""

    __slots__ = ("body", "digest", "filled", "first_ns", "head_due", "header")

    def __init__(self, header: MessageHeader, first_ns: int, *, store: bool) -> None:
        self.header = header
        self.first_ns = first_ns
        # Not zeroed: an announced size costs nothing until its bytes come.
        self.body = np.empty(header.length, np.uint8).data if store else None
        self.filled = 0
        self.digest = hashlib.sha256()
        self.head_due = header.command == "block" and header.length >= BLOCK_HEADER_BYTES

    def grow(self, count: int) -> None:
        """``count`` more bytes are in the body."""
        if self.body is not None:
            self.digest.update(self.body[self.filled : self.filled + count])
        self.filled += count

    @property
    def whole(self) -> bool:
        return self.filled == self.header.length

    def checksum(self) -> bytes:
        return hashlib.sha256(self.digest.digest()).digest()[:4]


class FrameReader:
    """Bytes in, messages out, for one connection. Not thread-safe."""

    def __init__(self, magic: bytes, sink: FrameSink) -> None:
        self._magic = magic
        self._sink = sink
        self._staging = memoryview(bytearray(STAGING_BYTES))
        self._start = 0
        self._end = 0
        self._long: _LongMessage | None = None
        self._first_ns = 0
        self._stopped = False
        self.bytes_received = 0

    @property
    def partial_since_ns(self) -> int:
        """When the first byte of the message that is still incomplete came; 0: there is none."""
        return self._first_ns

    @property
    def partial_length(self) -> int:
        """Announced length of the long message that is being received, else 0."""
        return self._long.header.length if self._long is not None else 0

    def stop(self) -> None:
        """No more messages are handed on, not even those already received."""
        self._stopped = True

    def buffer(self) -> memoryview:
        """Where the next bytes belong; never empty. Valid until ``received``."""
        long = self._long
        if self._stopped:
            return self._staging
        if long is None:
            return self._staging[self._end :]
        if long.body is None:
            return self._staging[: long.header.length - long.filled]
        return long.body[long.filled : long.filled + RECEIVE_BYTES_MAX]

    def received(self, count: int, now_ns: int) -> None:
        """``count`` bytes are in the buffer, at ``now_ns`` (CLOCK_REALTIME).

        Raises PeerFault when the stream can't be followed: close the connection then.
        """
        if self._stopped:
            return
        self.bytes_received += count
        if self._long is not None:
            self._advance_long(self._long, count, now_ns)
            return
        self._end += count
        while not self._stopped and self._take_staged(now_ns):
            pass
        if self._long is None and self._start:
            # What is left is less than one small message: bring it to the front.
            left = self._end - self._start
            self._staging[:left] = self._staging[self._start : self._end]
            self._start, self._end = 0, left

    def _take_staged(self, now_ns: int) -> bool:
        """Handle one message off the staging buffer; False when no whole one is there."""
        staged = self._end - self._start
        if staged == 0:
            self._start = self._end = self._first_ns = 0
            return False
        self._first_ns = self._first_ns or now_ns
        body_start = self._start + HEADER_BYTES
        self._check_magic(staged)
        if staged < HEADER_BYTES:
            return False
        header = self._header()
        if header.length > STAGING_BYTES - HEADER_BYTES or header.command == "block":
            self._begin_long(header, now_ns)
            return self._long is None
        if staged < HEADER_BYTES + header.length:
            return False
        self._start = body_start + header.length
        first_ns, self._first_ns = self._first_ns, 0
        payload = self._staging[body_start : self._start].toreadonly()
        if checksum(payload) != header.checksum:
            self._sink.bad_checksum(header.command, header.length)
        else:
            self._sink.frame(header.command, payload, first_ns, now_ns)
        return True

    def _check_magic(self, staged: int) -> None:
        """Judge the magic by whatever part of it has come."""
        found = bytes(self._staging[self._start : self._start + min(4, staged)])
        if not self._magic.startswith(found):
            expected = self._magic.hex()
            raise PeerFault(Cause.WRONG_MAGIC, f"found {found.hex()}, expected {expected}")

    def _header(self) -> MessageHeader:
        try:
            header = MessageHeader.decode(self._staging, self._start)
        except MalformedMessage as error:
            raise PeerFault(Cause.BAD_COMMAND, str(error)) from error
        limit = self._sink.payload_bytes_max(header.command)
        if header.length > limit:
            detail = f"{header.command} of {header.length} bytes, at most {limit}"
            raise PeerFault(Cause.OVERSIZE, detail)
        return header

    def _begin_long(self, header: MessageHeader, now_ns: int) -> None:
        """Move what has come of a long message to its own buffer and go on there."""
        long = _LongMessage(header, self._first_ns, store=self._sink.reads(header.command))
        self._start += HEADER_BYTES
        count = min(self._end - self._start, header.length)
        if long.body is not None:
            long.body[:count] = self._staging[self._start : self._start + count]
        self._start += count
        self._long = long
        self._advance_long(long, count, now_ns)
        if self._long is not None:
            self._start = self._end = 0

    def _advance_long(self, long: _LongMessage, count: int, now_ns: int) -> None:
        long.grow(count)
        if long.head_due and long.filled >= BLOCK_HEADER_BYTES and long.body is not None:
            long.head_due = False
            head = bytes(long.body[:BLOCK_HEADER_BYTES])
            if not self._sink.block_head(head, long.first_ns):
                long.body = None
        if self._stopped or not long.whole:
            return
        self._long = None
        self._first_ns = 0
        if long.body is None:
            return
        if long.checksum() != long.header.checksum:
            self._sink.bad_checksum(long.header.command, long.header.length)
        else:
            self._sink.frame(long.header.command, long.body.toreadonly(), long.first_ns, now_ns)
