"""Headers of genesis blocks, put together from the fields in which they differ."""

from __future__ import annotations

import struct

_HEADER = struct.Struct("<i32s32sIII")


def genesis_header(*, merkle_root: str, time: int, bits: int, nonce: int) -> bytes:
    """The 80-byte header of a genesis block; ``merkle_root`` as displayed (reversed hex)."""
    root = bytes.fromhex(merkle_root)[::-1]
    return _HEADER.pack(1, bytes(32), root, time, bits, nonce)


def displayed(text: str) -> bytes:
    """A hash as people write it, in internal byte order."""
    return bytes.fromhex(text)[::-1]
