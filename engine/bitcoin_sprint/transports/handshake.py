"""How a stream begins: SUBSCRIBE from the client; WELCOME, or ERROR and the end, from the server.

Version 1 of docs/wire.md. The bodies are fixed fields first, then texts (a 16-bit length, then
UTF-8), each with a bound of its own. A later version may append fields; what follows the last
known one is ignored.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from typing import Final

import msgspec

from bitcoin_sprint.errors import ProtocolError
from bitcoin_sprint.frames import Kind

VERSION: Final = 1

BLOCKS_KINDS: Final = frozenset({Kind.HEADER, Kind.BLOCK, Kind.TIP, Kind.RETRACT})
TX_KINDS: Final = frozenset({Kind.TX, Kind.MEMPOOL})

TIER_BYTES_MAX: Final = 32
KEY_BYTES_MAX: Final = 256
NAME_BYTES_MAX: Final = 64
DIRECTORY_BYTES_MAX: Final = 256
TEXT_BYTES_MAX: Final = 512

_SUBSCRIBE: Final = struct.Struct("<HHIQ")
_START: Final = struct.Struct("<B7xQQ")
_WELCOME: Final = struct.Struct("<HHI")
_RANGE: Final = struct.Struct("<QQQQQ")
_ERROR: Final = struct.Struct("<HH")
_LENGTH: Final = struct.Struct("<H")


class StartMode(enum.IntEnum):
    """Where in a ring a subscription starts."""

    NEWEST = 0
    """With the next frame published."""
    OLDEST = 1
    """With the oldest frame that the tier still offers."""
    SEQUENCE = 2
    """With a sequence number of a session; OLDEST where that session is over."""
    NONE = 3
    """Nothing of this ring."""


class Start(msgspec.Struct, frozen=True):
    """Where a subscription starts in one ring; session and sequence count with SEQUENCE alone."""

    mode: StartMode = StartMode.NEWEST
    session: int = 0
    sequence: int = 0


class Subscribe(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks for. ``kinds`` empty means all; ``tier`` empty means the port's."""

    blocks: Start = Start()
    tx: Start = Start()
    kinds: frozenset[int] = frozenset()
    tier: str = ""
    key: str = ""
    name: str = ""

    def pack(self) -> bytes:
        return b"".join(
            (
                _SUBSCRIBE.pack(VERSION, 0, 0, kinds_mask(self.kinds)),
                *(_START.pack(s.mode, s.session, s.sequence) for s in (self.blocks, self.tx)),
                _pack_text(self.tier, TIER_BYTES_MAX, "tier"),
                _pack_text(self.key, KEY_BYTES_MAX, "key"),
                _pack_text(self.name, NAME_BYTES_MAX, "name"),
            )
        )

    @classmethod
    def unpack(cls, body: memoryview | bytes) -> Subscribe:
        reader = _Fields(body, "SUBSCRIBE")
        version, _flags, _reserved, mask = reader.take(_SUBSCRIBE)
        if version != VERSION:
            raise VersionRefused(version)
        starts = [reader.take(_START) for _ in range(2)]
        tier = reader.text(TIER_BYTES_MAX, "tier")
        key = reader.text(KEY_BYTES_MAX, "key")
        name = reader.text(NAME_BYTES_MAX, "name")
        return cls(
            blocks=_start(*starts[0]),
            tx=_start(*starts[1]),
            kinds=kinds_of(mask),
            tier=tier,
            key=key,
            name=name,
        )


class VersionRefused(ProtocolError):
    """The other side speaks a version of the handshake that this one does not."""

    def __init__(self, version: int) -> None:
        super().__init__(f"handshake of version {version}, this side speaks {VERSION}")


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """Where one ring stands: its session, the ``start`` that this subscription got, the frame
    before that (``previous``), the oldest that could have been asked for, and the newest."""

    session: int = 0
    start: int = 0
    previous: int = 0
    oldest: int = 0
    newest: int = 0


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """The server's yes: what this port is, and where the subscription starts in each ring.

    ``memory_instance``: the engine whose rings a subscriber of its host may read instead, and
    ``memory_directory`` where they lie ("": POSIX shared memory); empty where none are offered.
    """

    heartbeat_ms: int
    blocks: Range
    tx: Range
    tier: str
    network: str
    server: str = ""
    memory_instance: str = ""
    memory_directory: str = ""

    def pack(self) -> bytes:
        ranges = (self.blocks, self.tx)
        return b"".join(
            (
                _WELCOME.pack(VERSION, 0, self.heartbeat_ms),
                *(_RANGE.pack(r.session, r.start, r.previous, r.oldest, r.newest) for r in ranges),
                _pack_text(self.tier, TIER_BYTES_MAX, "tier"),
                _pack_text(self.network, NAME_BYTES_MAX, "network"),
                _pack_text(self.server, NAME_BYTES_MAX, "server"),
                _pack_text(self.memory_instance, NAME_BYTES_MAX, "memory instance"),
                _pack_text(self.memory_directory, DIRECTORY_BYTES_MAX, "memory directory"),
            )
        )

    @classmethod
    def unpack(cls, body: memoryview | bytes) -> Welcome:
        reader = _Fields(body, "WELCOME")
        version, _flags, heartbeat_ms = reader.take(_WELCOME)
        if version != VERSION:
            raise VersionRefused(version)
        blocks, tx = (_range(*reader.take(_RANGE)) for _ in range(2))
        tier = reader.text(TIER_BYTES_MAX, "tier")
        network = reader.text(NAME_BYTES_MAX, "network")
        server = reader.text(NAME_BYTES_MAX, "server")
        memory_instance = reader.text(NAME_BYTES_MAX, "memory instance")
        memory_directory = reader.text(DIRECTORY_BYTES_MAX, "memory directory")
        return cls(
            heartbeat_ms=heartbeat_ms,
            blocks=blocks,
            tx=tx,
            tier=tier,
            network=network,
            server=server,
            memory_instance=memory_instance,
            memory_directory=memory_directory,
        )


class Refusal(enum.IntEnum):
    """Why the server ends a stream."""

    MALFORMED = 1
    VERSION = 2
    TIER = 3
    """Another tier than this port's was asked for."""
    KEY = 4
    FULL = 5
    """The worker's bound on subscribers is reached."""
    TIMEOUT = 6
    """No SUBSCRIBE came in time."""
    CLOSING = 7
    """The worker is shutting down, or restarting."""


class ErrorMessage(msgspec.Struct, frozen=True):
    """The server's no, for a program (``code``) and for a person (``text``)."""

    code: int
    text: str

    def pack(self) -> bytes:
        return _ERROR.pack(self.code, 0) + _pack_text(self.text, TEXT_BYTES_MAX, "text")

    @classmethod
    def unpack(cls, body: memoryview | bytes) -> ErrorMessage:
        reader = _Fields(body, "ERROR")
        code, _reserved = reader.take(_ERROR)
        return cls(code, reader.text(TEXT_BYTES_MAX, "text"))


# ---- heartbeat -----------------------------------------------------------------------------

_POSITION: Final = struct.Struct("<QQQ")
POSITIONS_MAX: Final = 64


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far a subscription has come: the last number selected by ``kinds`` (a mask, all of one
    ring) in that session, 0 where there is none."""

    kinds: int
    session: int
    last: int


class Heartbeat(msgspec.Struct, frozen=True):
    """Payload of a HEARTBEAT frame: a position for each ring of the subscription (on ZeroMQ, for
    each topic). Sent only when nothing is left to send: who has not seen a last number has lost
    what comes up to it."""

    positions: tuple[Position, ...]

    def pack(self) -> bytes:
        return b"".join(_POSITION.pack(p.kinds, p.session, p.last) for p in self.positions)

    @classmethod
    def unpack(cls, payload: memoryview | bytes | bytearray) -> Heartbeat:
        count, left = divmod(len(payload), _POSITION.size)
        if left or count > POSITIONS_MAX:
            raise ProtocolError(
                f"HEARTBEAT of {len(payload)} bytes, expected a multiple of {_POSITION.size} "
                f"up to {_POSITION.size * POSITIONS_MAX}"
            )
        fields = (_POSITION.unpack_from(payload, i * _POSITION.size) for i in range(count))
        return cls(tuple(Position(kinds=k, session=s, last=n) for k, s, n in fields))


# ---- fields --------------------------------------------------------------------------------


def kinds_mask(kinds: Iterable[int]) -> int:
    """Bit n for kind n."""
    mask = 0
    for kind in kinds:
        mask |= 1 << kind
    return mask


def kinds_of(mask: int) -> frozenset[int]:
    """The kinds of a mask; bits of kinds that this version does not know are kept."""
    return frozenset(bit for bit in range(64) if mask >> bit & 1)


def _start(mode: int, session: int, sequence: int) -> Start:
    try:
        return Start(StartMode(mode), session, sequence)
    except ValueError:
        raise ProtocolError(f"SUBSCRIBE with start mode {mode}, which is not known") from None


def _range(session: int, start: int, previous: int, oldest: int, newest: int) -> Range:
    return Range(session=session, start=start, previous=previous, oldest=oldest, newest=newest)


def _pack_text(text: str, limit: int, field: str) -> bytes:
    data = text.encode()
    if len(data) > limit:
        raise ProtocolError(f"{field} of {len(data)} bytes, at most {limit} are allowed")
    return _LENGTH.pack(len(data)) + data


class _Fields:
    """Takes fields off a body one after another; whatever is short or too long is refused."""

    __slots__ = ("_body", "_message", "_position")

    def __init__(self, body: memoryview | bytes, message: str) -> None:
        self._body = body
        self._message = message
        self._position = 0

    def take(self, layout: struct.Struct) -> tuple[int, ...]:
        if self._position + layout.size > len(self._body):
            raise ProtocolError(f"{self._message} of {len(self._body)} bytes is cut short")
        fields = layout.unpack_from(self._body, self._position)
        self._position += layout.size
        return fields

    def text(self, limit: int, field: str) -> str:
        (length,) = self.take(_LENGTH)
        if length > limit:
            raise ProtocolError(
                f"{self._message} with a {field} of {length} bytes, at most {limit} are allowed"
            )
        data = bytes(self._body[self._position : self._position + length])
        if len(data) < length:
            raise ProtocolError(f"{self._message} of {len(self._body)} bytes is cut short")
        self._position += length
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise ProtocolError(f"{self._message} with a {field} that is not UTF-8") from None
