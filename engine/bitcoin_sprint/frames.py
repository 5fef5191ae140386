"""The vocabulary of frames: kinds, proof levels, flags, chains, and the payloads that we define.

The same numbers stand in ``native/include/sprint.h`` for C programs; ``tests/unit/test_frames.py``
holds the two together. All integers in payloads are little-endian. Hashes are in internal byte
order (as hashed; reversed for display), as in the Bitcoin protocol.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

import msgspec


class Kind(enum.IntEnum):
    """What a frame carries. 1 to 15 belong to the ring ``blocks``, 16 to 31 to ``tx``."""

    HEADER = 1
    """80 bytes of block header, proof of work checked, the body still to come."""
    BLOCK = 2
    """A whole block, then its trailer (see ``BLOCK_FOOTER``)."""
    TIP = 3
    """A block was connected to or disconnected from the best chain (see ``Tip``)."""
    RETRACT = 4
    """What an earlier frame said about this hash is withdrawn (see ``Retract``)."""
    TX = 16
    """A transaction, raw, as first seen."""
    MEMPOOL = 17
    """One named node's mempool gained or lost a transaction (see ``Mempool``)."""
    HEARTBEAT = 32
    """The stream lives. Not in a ring; takes no sequence number."""
    STATUS = 33
    """Text for a subscriber about its stream. Not in a ring; takes no sequence number."""


class Level(enum.IntEnum):
    """How far the content was proved. Frames never change; a higher level is a new TIP frame."""

    UNVERIFIED = 0
    POW = 1
    MERKLE = 2
    CONNECTED = 3


class Flag(enum.IntFlag):
    """Properties of a frame, or of one delivery of it."""

    NONE = 0
    UNANCHORED = 1
    """Proof of work was checked against the header's own target only: no header chain stood by."""
    LATE = 2
    """Delivered past its tier's deadline. Set on the wire only, never in a ring."""


class Chain(enum.IntEnum):
    """Which block chain. The network (main, regtest, ...) is a property of the ring."""

    BITCOIN = 1
    LITECOIN = 2


class TipAction(enum.IntEnum):
    """Which way the tip moved. The values are those of Bitcoin Core's ``sequence`` topic."""

    CONNECTED = ord("C")
    DISCONNECTED = ord("D")


class MempoolAction(enum.IntEnum):
    """What happened to the transaction. The values are those of Core's ``sequence`` topic."""

    ADDED = ord("A")
    REMOVED = ord("R")


BLOCK_FOOTER: Final = struct.Struct("<IIII")
"""Last 16 bytes of a BLOCK payload: body length in bytes, transaction count, trailer version (1),
magic (``BLOCK_TRAILER_MAGIC``). Before it, going back: txids (32 bytes each), padding to 8,
offsets of the transactions within the body (u32 each), padding of the body to 8."""

BLOCK_TRAILER_MAGIC: Final = 0x58545053  # "SPTX"

_TIP = struct.Struct("<B7xQ32s32s")
_RETRACT = struct.Struct("<Q32s")
_MEMPOOL = struct.Struct("<B7xQ")


class Tip(msgspec.Struct, frozen=True):
    """Payload of a TIP frame, 80 bytes: action u8, 7 zero, block sequence u64, previous hash, work.

    The frame's own fields carry the block's hash, height and level. ``block_sequence`` is the
    number of the BLOCK frame with the body (0: not in this session). ``previous_hash`` is the
    block's parent. ``work`` is the chain's total work up to and with this block, 256 bits.
    """

    action: TipAction
    block_sequence: int
    previous_hash: bytes
    work: int

    def pack(self) -> bytes:
        return _TIP.pack(
            self.action, self.block_sequence, self.previous_hash, self.work.to_bytes(32, "little")
        )

    @classmethod
    def unpack(cls, payload: bytes | memoryview) -> Tip:
        action, block_sequence, previous_hash, work = _TIP.unpack_from(payload)
        return cls(TipAction(action), block_sequence, previous_hash, int.from_bytes(work, "little"))


class Retract(msgspec.Struct, frozen=True):
    """Payload of a RETRACT frame: sequence of the frame withdrawn u64 (0: none), parent hash, then
    the reason as UTF-8 text to the payload's end."""

    sequence: int
    previous_hash: bytes
    reason: str

    def pack(self) -> bytes:
        return _RETRACT.pack(self.sequence, self.previous_hash) + self.reason.encode()

    @classmethod
    def unpack(cls, payload: bytes | memoryview) -> Retract:
        sequence, previous_hash = _RETRACT.unpack_from(payload)
        return cls(sequence, previous_hash, bytes(payload[_RETRACT.size :]).decode())


class Mempool(msgspec.Struct, frozen=True):
    """Payload of a MEMPOOL frame: action u8, 7 zero, the node's mempool sequence u64, then the raw
    transaction to the payload's end (empty where it was removed or its body is not known).

    A sequence of 0 (Core begins at 1): the node does not publish ``sequence``, and only told of the
    transaction; then nothing is said of what leaves the mempool."""

    action: MempoolAction
    mempool_sequence: int
    raw: bytes = b""

    def pack(self) -> bytes:
        return _MEMPOOL.pack(self.action, self.mempool_sequence) + self.raw

    @classmethod
    def unpack(cls, payload: bytes | memoryview) -> Mempool:
        action, sequence = _MEMPOOL.unpack_from(payload)
        return cls(MempoolAction(action), sequence, bytes(payload[_MEMPOOL.size :]))
