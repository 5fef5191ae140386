"""A frame as a reader sees it: fields of its own, the payload still in the ring.

A payload may be overwritten at any moment. Use it, then ask ``valid()``, and only then believe
what was read; or take ``copy()``, which asks by itself.
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import numpy.typing as npt

from bitcoin_sprint.errors import Corrupt, Overrun
from bitcoin_sprint.frames import BLOCK_FOOTER, BLOCK_TRAILER_MAGIC, Kind
from bitcoin_sprint.native import FrameView
from bitcoin_sprint.ring import layout

_HEADER_BYTES = 80


class Frame(FrameView):
    """One frame. Its fields are a private copy and never change; only the payload can go away.

    Made by a Reader. The fields stand in ``FrameView``. A frame is itself a read-only buffer of its
    payload, so ``memoryview(frame)`` and ``struct.unpack_from(format, frame)`` read in place.
    """

    __slots__ = ()

    @property
    def session(self) -> int:
        """Random number of the ring's segment; (session, sequence) names a frame."""
        session: int = self.ring.session
        return session

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

    def __reduce__(self) -> NoReturn:
        raise TypeError("a frame points into shared memory; copy() its payload instead")
