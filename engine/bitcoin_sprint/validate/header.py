"""A block header on its own: its fields, and its proof of work against its own target."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from bitcoin_sprint.chains import Network
from bitcoin_sprint.errors import HeaderRefused
from bitcoin_sprint.validate.target import decode_bits

HEADER_BYTES: Final = 80
_FIELDS: Final = struct.Struct("<i32s32sIII")


class HeaderFields(NamedTuple):
    """What a header says. Hashes in internal byte order, ``time`` in Unix seconds."""

    version: int
    previous_hash: bytes
    merkle_root: bytes
    time: int
    bits: int
    nonce: int


def parse_header(header: bytes | memoryview) -> HeaderFields:
    """The fields of the first 80 bytes of ``header``.

    Raises HeaderRefused("truncated") where there are fewer.
    """
    if len(header) < HEADER_BYTES:
        raise HeaderRefused("truncated", f"{len(header)} bytes instead of {HEADER_BYTES}")
    return HeaderFields._make(_FIELDS.unpack_from(header))


def check_header_alone(header: bytes | memoryview, network: Network) -> bytes:
    """Check a header's proof of work against its own target and the network's easiest one.

    Returns the block's hash, internal byte order. Raises HeaderRefused with ``truncated`` or
    ``high-hash``; the latter also stands, as in Bitcoin Core, for a target that is negative, zero,
    too large for 256 bits, or easier than the network allows.
    """
    fields = parse_header(header)
    target = decode_bits(fields.bits)
    if target is None or target > network.pow_limit:
        raise HeaderRefused("high-hash", f"target 0x{fields.bits:08x} is not allowed")
    block_hash = network.block_hash(header)
    pow_hash = network.pow_hash(header)
    if int.from_bytes(pow_hash, "little") > target:
        raise HeaderRefused("high-hash", f"{block_hash[::-1].hex()} misses 0x{fields.bits:08x}")
    return block_hash
