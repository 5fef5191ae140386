"""A frame as a reader sees it: fields of its own, the payload still in the ring.

A payload may be overwritten at any moment. Use it, then ask ``valid()``, and only then believe
what was read; or take ``copy()``, which asks by itself.
"""

from __future__ import annotations

from struct import Struct
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from bitcoin_sprint.errors import Corrupt, Overrun
from bitcoin_sprint.frames import BLOCK_FOOTER, BLOCK_TRAILER_MAGIC, Kind
from bitcoin_sprint.native import lib
from bitcoin_sprint.ring import layout

_U64 = Struct("<Q").unpack_from
_U32 = Struct("<I").unpack_from
_I32 = Struct("<i").unpack_from
_U16 = Struct("<H").unpack_from
_PLACE = Struct("<QI").unpack_from

_HEADER_BYTES = 80


class Frame(msgspec.Struct, frozen=True, eq=False):
    """One frame. Its fields are a private copy and never change; only the payload can go away."""

    _ring: Any  # a Ring; a Struct for its constructor, which costs half of a Python one
    _raw: bytes

    @property
    def sequence(self) -> int:
        value: int = _U64(self._raw, 0)[0]
        return value

    @property
    def session(self) -> int:
        session: int = self._ring.session
        return session

    @property
    def position(self) -> int:
        """Absolute place in the arena; frames may lie there in another order than their numbers."""
        value: int = _U64(self._raw, 8)[0]
        return value

    @property
    def length(self) -> int:
        """Bytes of the payload."""
        value: int = _U32(self._raw, 16)[0]
        return value

    @property
    def crc32c(self) -> int:
        """CRC32C of the payload, as the writer reckoned it."""
        value: int = _U32(self._raw, 20)[0]
        return value

    @property
    def kind(self) -> int:
        """A ``frames.Kind``."""
        return self._raw[24]

    @property
    def chain(self) -> int:
        """A ``frames.Chain``."""
        return self._raw[25]

    @property
    def level(self) -> int:
        """A ``frames.Level``."""
        return self._raw[26]

    @property
    def flags(self) -> int:
        """``frames.Flag`` bits."""
        value: int = _U32(self._raw, 28)[0]
        return value

    @property
    def height(self) -> int:
        """-1: not known."""
        value: int = _I32(self._raw, 32)[0]
        return value

    @property
    def source(self) -> int:
        """Index into the source table; ``Ring.source_name`` has the name."""
        value: int = _U16(self._raw, 36)[0]
        return value

    @property
    def hash(self) -> bytes:
        """Block hash or txid, 32 bytes in internal order."""
        return self._raw[40:72]

    @property
    def publish_ns(self) -> int:
        """CLOCK_REALTIME when it was published."""
        value: int = _U64(self._raw, 72)[0]
        return value

    @property
    def origin_ns(self) -> int:
        """CLOCK_REALTIME when the sender says it was made, 0: not known."""
        value: int = _U64(self._raw, 80)[0]
        return value

    @property
    def first_byte_ns(self) -> int:
        """CLOCK_REALTIME when its first byte arrived, 0: not known."""
        value: int = _U64(self._raw, 88)[0]
        return value

    @property
    def last_byte_ns(self) -> int:
        """CLOCK_REALTIME when its last byte arrived, 0: not known."""
        value: int = _U64(self._raw, 96)[0]
        return value

    @property
    def stamp_ns(self) -> int:
        """CLOCK_MONOTONIC at publication, strictly increasing over both rings of an instance."""
        value: int = _U64(self._raw, 104)[0]
        return value

    @property
    def descriptor(self) -> bytes:
        """All fields as the 128 bytes of ``layout.DESCRIPTOR``."""
        return self._raw

    @property
    def payload(self) -> memoryview:
        """The payload in the ring, read-only, not copied. Ask ``valid()`` after using it.

        Keeps the mapping alive, also past ``Ring.close``.
        """
        position, length = _PLACE(self._raw, 8)
        ring = self._ring
        offset = position % ring.arena_bytes
        payload: memoryview = ring.arena[offset : offset + length]
        return payload

    def valid(self) -> bool:
        """Whether everything read from the payload before this call was whole."""
        return bool(lib.sp_intact(self._ring.mapped, _U64(self._raw, 8)[0]))

    def copy(self) -> bytes | None:
        """The payload, copied and known to be whole; None when it has been overwritten."""
        copied = self.payload.tobytes()
        return copied if self.valid() else None

    @property
    def header(self) -> npt.NDArray[np.uint8]:
        """The 80 bytes of block header of a HEADER or BLOCK frame, a read-only view."""
        if self.kind not in (Kind.HEADER, Kind.BLOCK):
            raise ValueError(f"a frame of kind {self.kind} has no block header")
        return self._view(0, _HEADER_BYTES)

    @property
    def body(self) -> npt.NDArray[np.uint8]:
        """What the node sent, without the trailer of a BLOCK frame; a read-only uint8 view."""
        length = self._trailer()[0] if self.kind == Kind.BLOCK else self.length
        return self._view(0, length)

    @property
    def txids(self) -> npt.NDArray[np.uint8]:
        """(n, 32) uint8: the transactions' ids of a BLOCK frame in block order, a read-only
        view."""
        _, count, txids_at, _ = self._trailer()
        return self._view(txids_at, count * 32).reshape(count, 32)

    @property
    def offsets(self) -> npt.NDArray[np.uint32]:
        """(n,) uint32: where each transaction of a BLOCK frame begins in ``body``, read-only."""
        _, count, _, offsets_at = self._trailer()
        return self._view(offsets_at, count * 4).view(np.uint32)

    def _view(self, start: int, length: int) -> npt.NDArray[np.uint8]:
        return np.frombuffer(self.payload[start : start + length], np.uint8)

    def _trailer(self) -> tuple[int, int, int, int]:
        """Body length, transaction count, where txids and offsets begin; checked against the
        length.

        Raises Overrun when the payload was overwritten, Corrupt when it is whole and wrong.
        """
        if self.kind != Kind.BLOCK:
            raise ValueError(f"a frame of kind {self.kind} has no trailer")
        length = self.length
        if length >= BLOCK_FOOTER.size:
            footer_at = length - BLOCK_FOOTER.size
            body, count, version, magic = BLOCK_FOOTER.unpack_from(self.payload, footer_at)
            txids_at = footer_at - count * 32
            offsets_at = txids_at - layout.round_up(count * 4, 8)
            sound = magic == BLOCK_TRAILER_MAGIC and version == 1
            if sound and offsets_at == layout.round_up(body, 8):
                return body, count, txids_at, offsets_at
        if not self.valid():
            raise Overrun(f"frame {self.sequence}: the payload has been overwritten")
        raise Corrupt(f"frame {self.sequence}: a BLOCK payload of {length} bytes has no trailer")

    def __repr__(self) -> str:
        known = {kind.value: kind.name for kind in Kind}
        return (
            f"<Frame {self.sequence} {known.get(self.kind, self.kind)} height={self.height} "
            f"{self.hash[::-1].hex()[:16]}… {self.length} bytes>"
        )

    def __getstate__(self) -> Any:
        raise TypeError("a frame points into shared memory; copy() its payload instead")
