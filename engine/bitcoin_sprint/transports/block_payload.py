"""A BLOCK frame's payload taken apart: the raw block, and the trailer behind it (``frames``)."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import numpy.typing as npt

from bitcoin_sprint.errors import ProtocolError
from bitcoin_sprint.frames import BLOCK_FOOTER, BLOCK_TRAILER_MAGIC

_TRAILER_VERSION = 1
_TXID_BYTES = 32
_OFFSET_BYTES = 4


class BlockPayload(msgspec.Struct, frozen=True):
    """The parts of a BLOCK payload, as views of it."""

    body: memoryview
    """The raw block."""
    offsets: npt.NDArray[np.uint32]
    """Where each transaction starts in ``body``, (n,)."""
    txids: npt.NDArray[np.uint8]
    """Txids in internal byte order, (n, 32)."""

    @classmethod
    def unpack(cls, payload: bytes | memoryview) -> BlockPayload:
        """Take ``payload`` apart; raises ProtocolError where its trailer does not fit it."""
        view = memoryview(payload)
        body_bytes, count = _footer(view)
        offsets_start = _round_up(body_bytes)
        txids_start = len(view) - BLOCK_FOOTER.size - count * _TXID_BYTES
        txids = np.frombuffer(view, np.uint8, count * _TXID_BYTES, txids_start)
        return cls(
            view[:body_bytes],
            np.frombuffer(view, np.uint32, count, offsets_start),
            txids.reshape(count, _TXID_BYTES),
        )

    def bounds(self) -> list[int]:
        """Where the transactions start and the last one ends: n + 1 places in ``body``."""
        bounds: list[int] = self.offsets.tolist()
        bounds.append(len(self.body))
        if any(left >= right for left, right in itertools.pairwise(bounds)):
            raise ProtocolError("BLOCK with transactions out of order in its trailer")
        return bounds


def body_of(payload: memoryview) -> memoryview:
    """The raw block alone."""
    return payload[: _footer(payload)[0]]


def _footer(payload: memoryview) -> tuple[int, int]:
    """Body length and transaction count, both checked against the payload's length."""
    length = len(payload)
    if length < BLOCK_FOOTER.size:
        raise ProtocolError(f"BLOCK of {length} bytes has no trailer")
    footer = BLOCK_FOOTER.unpack_from(payload, length - BLOCK_FOOTER.size)
    body_bytes, count, version, magic = footer
    txids_start = _round_up(_round_up(body_bytes) + _OFFSET_BYTES * count)
    needed = txids_start + _TXID_BYTES * count + BLOCK_FOOTER.size
    if magic != BLOCK_TRAILER_MAGIC or version != _TRAILER_VERSION or needed != length:
        raise ProtocolError(f"BLOCK of {length} bytes with a trailer that does not fit it")
    return body_bytes, count


def _round_up(count: int) -> int:
    return -(-count // 8) * 8
