"""A frame as a remote subscriber has it: the header's fields, and a payload of its own."""

from __future__ import annotations

import struct
from typing import Literal, Protocol, Self, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from bitcoin_sprint.errors import ProtocolError
from bitcoin_sprint.frames import Flag, Kind, Mempool, Retract, Tip
from bitcoin_sprint.transports.block_payload import BlockPayload, body_of
from bitcoin_sprint.transports.codec import FrameHeader

RingName = Literal["blocks", "tx"]

_TX_KINDS_START = 16
_HEADER_BYTES = 80


def ring_of(kind: int) -> RingName:
    """Which ring numbers a kind of frame."""
    return "blocks" if kind < _TX_KINDS_START else "tx"


class _Payload(Protocol):
    @classmethod
    def unpack(cls, payload: bytes | memoryview) -> Self: ...


_P = TypeVar("_P", bound=_Payload)


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One frame: checked, whole, and the subscriber's own.

    ``session`` and ``sequence`` identify it; ``previous`` is the number of the frame before it in
    this subscription. Times are CLOCK_REALTIME nanoseconds, 0 where not known; all but
    ``received_ns`` are the engine's host's. Hashes are in internal byte order.
    """

    kind: int
    chain: int
    level: int
    flags: int
    height: int
    hash: bytes
    session: int
    sequence: int
    previous: int
    publish_ns: int
    origin_ns: int
    first_byte_ns: int
    last_byte_ns: int
    received_ns: int
    payload: memoryview

    @classmethod
    def of(cls, header: FrameHeader, payload: memoryview, *, flags: int, received_ns: int) -> Frame:
        return cls(
            kind=header.kind,
            chain=header.chain,
            level=header.level,
            flags=header.flags | flags,
            height=header.height,
            hash=header.hash,
            session=header.session,
            sequence=header.sequence,
            previous=header.previous,
            publish_ns=header.publish_ns,
            origin_ns=header.origin_ns,
            first_byte_ns=header.first_byte_ns,
            last_byte_ns=header.last_byte_ns,
            received_ns=received_ns,
            payload=payload,
        )

    @property
    def ring(self) -> RingName:
        return ring_of(self.kind)

    @property
    def length(self) -> int:
        """Bytes of the payload."""
        return len(self.payload)

    @property
    def late(self) -> bool:
        """Whether it was delivered past its tier's deadline."""
        return bool(self.flags & Flag.LATE)

    @property
    def hash_hex(self) -> str:
        """The block's or transaction's hash as people write it: reversed, in hexadecimal."""
        return self.hash[::-1].hex()

    @property
    def header(self) -> memoryview:
        """The 80 bytes of block header of a HEADER or BLOCK frame."""
        self._require(Kind.HEADER, Kind.BLOCK)
        if len(self.payload) < _HEADER_BYTES:
            raise ProtocolError(f"{self._name} of {len(self.payload)} bytes holds no header")
        return self.payload[:_HEADER_BYTES]

    @property
    def body(self) -> memoryview:
        """The raw block of a BLOCK frame, without the trailer behind it."""
        self._require(Kind.BLOCK)
        return body_of(self.payload)

    @property
    def offsets(self) -> npt.NDArray[np.uint32]:
        """Where each transaction of a BLOCK frame starts within ``body``, (n,) u32."""
        self._require(Kind.BLOCK)
        return BlockPayload.unpack(self.payload).offsets

    @property
    def txids(self) -> npt.NDArray[np.uint8]:
        """The txids of a BLOCK frame's transactions in internal byte order, (n, 32) u8."""
        self._require(Kind.BLOCK)
        return BlockPayload.unpack(self.payload).txids

    def tip(self) -> Tip:
        """What a TIP frame says."""
        self._require(Kind.TIP)
        return self._unpacked(Tip)

    def retract(self) -> Retract:
        """What a RETRACT frame says."""
        self._require(Kind.RETRACT)
        return self._unpacked(Retract)

    def mempool(self) -> Mempool:
        """What a MEMPOOL frame says."""
        self._require(Kind.MEMPOOL)
        return self._unpacked(Mempool)

    def _unpacked(self, payload_type: type[_P]) -> _P:
        try:
            return payload_type.unpack(self.payload)
        except (ValueError, struct.error) as error:
            raise ProtocolError(f"{self._name} with a payload that is none: {error}") from error

    def _require(self, *kinds: Kind) -> None:
        if self.kind not in kinds:
            raise TypeError(f"a {self._name} frame has none; {' or '.join(k.name for k in kinds)}")

    @property
    def _name(self) -> str:
        try:
            return Kind(self.kind).name
        except ValueError:
            return f"kind {self.kind}"
