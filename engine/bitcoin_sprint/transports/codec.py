"""The wire, version 1: the frame header and the messages of the stream.

docs/wire.md is the specification, tests/vectors/wire.json what other implementations can check
against. All integers are little-endian; hashes are in internal byte order.

Sans I/O: nothing here reads or sends. What comes from outside is bounded before it is used, and
anything wrong with it is a ProtocolError.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

import msgspec

from bitcoin_sprint.errors import ProtocolError
from bitcoin_sprint.frames import Flag, Kind
from bitcoin_sprint.native import crc32c

VERSION: Final = 1
MAGIC: Final = 0x57525053  # "SPRW" in wire order

# ---- the frame header ----------------------------------------------------------------------

_HEADER_BODY: Final = struct.Struct("<IBBBBIiQQQQiii32sII")
_U32: Final = struct.Struct("<I")
HEADER_BYTES: Final = _HEADER_BODY.size + _U32.size
assert HEADER_BYTES == 104

PAYLOAD_BYTES_MAX: Final = 256 << 20
"""No frame is longer: the default arena of the larger ring."""

UNKNOWN_US: Final = -(1 << 31)
"""The offset of a time that is not known."""

_OFFSET_LIMIT_US: Final = (1 << 31) - 1


class FrameHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The fixed header before every payload: on TCP, in native ZeroMQ topics, in the journal.

    ``kind``, ``chain`` and ``level`` are plain integers, so that a reader of this version can pass
    over kinds of a later one. The three times before ``publish_ns`` are 0 where not known; on the
    wire they are whole microseconds before it, so that they come back rounded.
    """

    kind: int
    session: int
    sequence: int
    previous: int
    publish_ns: int
    length: int
    chain: int = 0
    level: int = 0
    flags: int = 0
    height: int = -1
    origin_ns: int = 0
    first_byte_ns: int = 0
    last_byte_ns: int = 0
    hash: bytes = bytes(32)

    def pack(self) -> bytes:
        return pack_header(
            kind=self.kind,
            chain=self.chain,
            level=self.level,
            flags=self.flags,
            height=self.height,
            session=self.session,
            sequence=self.sequence,
            previous=self.previous,
            publish_ns=self.publish_ns,
            origin_ns=self.origin_ns,
            first_byte_ns=self.first_byte_ns,
            last_byte_ns=self.last_byte_ns,
            hash=self.hash,
            length=self.length,
        )


def pack_header(
    *,
    kind: int,
    chain: int,
    level: int,
    flags: int,
    height: int,
    session: int,
    sequence: int,
    previous: int,
    publish_ns: int,
    origin_ns: int,
    first_byte_ns: int,
    last_byte_ns: int,
    hash: bytes,
    length: int,
) -> bytes:
    """The header's 104 bytes. Times are CLOCK_REALTIME nanoseconds, 0 where not known."""
    body = _HEADER_BODY.pack(
        MAGIC,
        VERSION,
        kind,
        chain,
        level,
        flags,
        height,
        session,
        sequence,
        previous,
        publish_ns,
        _offset_us(publish_ns, origin_ns),
        _offset_us(publish_ns, first_byte_ns),
        _offset_us(publish_ns, last_byte_ns),
        hash,
        length,
        0,
    )
    return body + _U32.pack(crc32c(body))


def unpack_header(data: bytes | bytearray | memoryview) -> FrameHeader:
    """The header in the first 104 bytes of ``data``; raises ProtocolError for a bad one."""
    if len(data) < HEADER_BYTES:
        raise ProtocolError(f"frame header of {len(data)} bytes, expected {HEADER_BYTES}")
    fields = _HEADER_BODY.unpack_from(data)
    magic, version, kind, chain, level, flags, height, session, sequence, previous = fields[:10]
    publish_ns, origin_us, first_us, last_us, digest, length, _reserved = fields[10:]
    if magic != MAGIC:
        raise ProtocolError(f"frame header with magic {magic:#010x}, expected {MAGIC:#010x}")
    if version != VERSION:
        raise ProtocolError(f"frame header of version {version}, this side speaks {VERSION}")
    (stated,) = _U32.unpack_from(data, _HEADER_BODY.size)
    actual = crc32c(data[: _HEADER_BODY.size])
    if stated != actual:
        raise ProtocolError(f"frame header with CRC32C {actual:#010x}, it states {stated:#010x}")
    if length > PAYLOAD_BYTES_MAX:
        raise ProtocolError(f"frame of {length} bytes, at most {PAYLOAD_BYTES_MAX} are allowed")
    return FrameHeader(
        kind=kind,
        chain=chain,
        level=level,
        flags=flags,
        height=height,
        session=session,
        sequence=sequence,
        previous=previous,
        publish_ns=publish_ns,
        origin_ns=_moment_ns(publish_ns, origin_us),
        first_byte_ns=_moment_ns(publish_ns, first_us),
        last_byte_ns=_moment_ns(publish_ns, last_us),
        hash=digest,
        length=length,
    )


def _offset_us(publish_ns: int, moment_ns: int) -> int:
    if moment_ns == 0:
        return UNKNOWN_US
    offset = (publish_ns - moment_ns) // 1_000
    return max(-_OFFSET_LIMIT_US, min(_OFFSET_LIMIT_US, offset))


def _moment_ns(publish_ns: int, offset_us: int) -> int:
    return 0 if offset_us == UNKNOWN_US else publish_ns - offset_us * 1_000


# ---- the stream's messages -----------------------------------------------------------------


class Message(enum.IntEnum):
    """What a message of the stream is; the first byte of its prefix."""

    SUBSCRIBE = 1
    WELCOME = 2
    ERROR = 3
    FRAME = 4
    """Opens a frame: the frame header."""
    CHUNK = 5
    """The next bytes of an open frame's payload."""
    END = 6
    """Closes an open frame: whole and right, or aborted."""


PREFIX: Final = struct.Struct("<BBHI")
"""Before every message: type, reserved (0), stream (which open frame, 0 to 65,535), body length."""

CHUNK_BYTES_MAX: Final = 64 << 10
HANDSHAKE_BYTES_MAX: Final = 4096
"""Longest body of SUBSCRIBE, WELCOME and ERROR."""

OPEN_FRAMES_MAX: Final = 16
"""As many frames may be open at once on a stream."""

_END: Final = struct.Struct("<BBHI")
END_BYTES: Final = _END.size

_BODY_BYTES_MAX: Final = {
    Message.SUBSCRIBE: HANDSHAKE_BYTES_MAX,
    Message.WELCOME: HANDSHAKE_BYTES_MAX,
    Message.ERROR: HANDSHAKE_BYTES_MAX,
    Message.FRAME: HEADER_BYTES,
    Message.CHUNK: CHUNK_BYTES_MAX,
    Message.END: END_BYTES,
}


class EndStatus(enum.IntEnum):
    """How a frame ended."""

    OK = 0
    OVERWRITTEN = 1
    """Aborted: the ring overwrote it before it was sent."""
    PAST_DEADLINE = 2
    """Aborted: a write took longer than the tier allows."""


class End(msgspec.Struct, frozen=True):
    """Body of an END message, and last part of a native ZeroMQ message: status, the delivery's
    flags (LATE), the CRC32C of the whole payload (0 where aborted)."""

    status: EndStatus
    flags: int
    crc32c: int

    def pack(self) -> bytes:
        return _END.pack(self.status, self.flags, 0, self.crc32c)

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> End:
        if len(data) != END_BYTES:
            raise ProtocolError(f"END of {len(data)} bytes, expected {END_BYTES}")
        status, flags, _reserved, crc = _END.unpack(data)
        try:
            return cls(EndStatus(status), flags, crc)
        except ValueError:
            raise ProtocolError(f"END with status {status}, which is not known") from None


def pack_message(kind: Message, body: bytes, stream: int = 0) -> bytes:
    return PREFIX.pack(kind, 0, stream, len(body)) + body


def pack_whole(header: bytes, payload: bytes, crc: int, flags: int = 0) -> bytes:
    """FRAME, CHUNK and END of a payload that fits one chunk, on stream 0: never interleaved."""
    parts = [pack_message(Message.FRAME, header)]
    if payload:
        parts.append(pack_message(Message.CHUNK, payload))
    parts.append(pack_end(EndStatus.OK, crc, flags=flags))
    return b"".join(parts)


def pack_end(status: EndStatus, crc: int, *, flags: int = 0, stream: int = 0) -> bytes:
    return pack_message(Message.END, End(status, flags, crc).pack(), stream)


PACKED_END_BYTES: Final = PREFIX.size + END_BYTES


class MessageSplitter:
    """Splits what a socket delivers into messages, whatever the pieces it comes in.

    ``feed`` takes the next bytes; ``next`` gives (type, stream, body) or None until there are
    more. A body is a view that holds until the next ``feed``.
    """

    __slots__ = ("_buffer", "_start")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._start = 0

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        if self._start:
            # A new object, not `del`: the caller may still hold views of the old one.
            self._buffer = self._buffer[self._start :]
            self._start = 0
        self._buffer += data

    @property
    def pending(self) -> int:
        """Bytes fed and not yet taken as messages."""
        return len(self._buffer) - self._start

    def next(self) -> tuple[Message, int, memoryview] | None:
        if self.pending < PREFIX.size:
            return None
        kind, _reserved, stream, length = PREFIX.unpack_from(self._buffer, self._start)
        message = check_prefix(kind, length)
        start = self._start + PREFIX.size
        if len(self._buffer) < start + length:
            return None
        self._start = start + length
        return message, stream, memoryview(self._buffer)[start : start + length]


def check_prefix(kind: int, length: int) -> Message:
    """The message type of a prefix whose body length is within its bound; else ProtocolError."""
    try:
        message = Message(kind)
    except ValueError:
        raise ProtocolError(f"message of type {kind}, which is not known") from None
    if length > _BODY_BYTES_MAX[message]:
        limit = _BODY_BYTES_MAX[message]
        raise ProtocolError(f"{message.name} of {length} bytes, at most {limit} are allowed")
    return message


assert Flag.LATE < 256, "END carries a delivery's flags in one byte"

# ---- native ZeroMQ topics ------------------------------------------------------------------

TOPICS: Final[dict[int, bytes]] = {
    Kind.HEADER: b"sprint.blocks.header",
    Kind.BLOCK: b"sprint.blocks.block",
    Kind.TIP: b"sprint.blocks.tip",
    Kind.RETRACT: b"sprint.blocks.retract",
    Kind.TX: b"sprint.tx.tx",
    Kind.MEMPOOL: b"sprint.tx.mempool",
}
"""Topic of each kind; no topic is the beginning of another, and a ring's begin alike."""

HEARTBEAT_TOPIC: Final = b"sprint.heartbeat"
