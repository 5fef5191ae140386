"""Blocks made by hand for tests: right in every part, or wrong in exactly one."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from oracle.block import COMMITMENT, merkle, push_of_height, sha256d

from bitcoin_sprint.chains import Network, network
from bitcoin_sprint.validate import decode_bits

REGTEST = network("regtest")
REGTEST_BITS = 0x207FFFFF
NULL_OUTPOINT = bytes(32) + b"\xff" * 4
NONCE = bytes(range(32))


def size(value: int) -> bytes:
    """A canonical CompactSize."""
    if value < 0xFD:
        return bytes([value])
    for first, width in ((0xFD, 2), (0xFE, 4)):
        if value < 1 << 8 * width:
            return bytes([first]) + value.to_bytes(width, "little")
    return b"\xff" + value.to_bytes(8, "little")


def vector(data: bytes) -> bytes:
    return size(len(data)) + data


@dataclass(frozen=True)
class Tx:
    """A transaction to be serialized; ``witnesses`` one stack an input, or none at all."""

    inputs: Sequence[tuple[bytes, bytes]] = ((bytes([1]) * 36, b"\x51"),)
    outputs: Sequence[tuple[int, bytes]] = ((1_000, b"\x51"),)
    witnesses: Sequence[Sequence[bytes]] = ()
    version: int = 2
    locktime: int = 0

    @property
    def body(self) -> bytes:
        inputs = b"".join(point + vector(sig) + b"\xff" * 4 for point, sig in self.inputs)
        outputs = b"".join(struct.pack("<q", value) + vector(out) for value, out in self.outputs)
        return size(len(self.inputs)) + inputs + size(len(self.outputs)) + outputs

    @property
    def base(self) -> bytes:
        return struct.pack("<i", self.version) + self.body + struct.pack("<I", self.locktime)

    @property
    def raw(self) -> bytes:
        if not self.witnesses:
            return self.base
        stacks = b"".join(
            size(len(stack)) + b"".join(map(vector, stack)) for stack in self.witnesses
        )
        return self.base[:4] + b"\x00\x01" + self.body + stacks + self.base[-4:]

    @property
    def txid(self) -> bytes:
        return sha256d(self.base)

    @property
    def wtxid(self) -> bytes:
        return sha256d(self.raw)


def pay(mark: int, **changes: object) -> Tx:
    """A transaction without witness, different for each ``mark``."""
    tx = Tx(inputs=((mark.to_bytes(36, "little"), b"\x51"),))
    return replace(tx, **changes)  # type: ignore[arg-type]


def pay_with_witness(mark: int) -> Tx:
    return pay(mark, witnesses=((b"sig", bytes([mark % 256]) * 40),))


def coinbase(height: int, *, script: bytes | None = None) -> Tx:
    script = push_of_height(height) + b"\x00\x00" if script is None else script
    return Tx(((NULL_OUTPOINT, script),), ((5_000_000_000, b"\x51"),))


def commit(first: Tx, others: Sequence[Tx], nonce: bytes = NONCE) -> Tx:
    """The coinbase with a witness commitment to ``others`` and the nonce in its witness."""
    root, _ = merkle([bytes(32), *(each.wtxid for each in others)])
    output = (0, COMMITMENT + sha256d(root + nonce))
    return replace(first, outputs=(*first.outputs, output), witnesses=((nonce,),))


@dataclass
class Made:
    """A block; ``raw`` mines it. ``mined_for`` are the transactions of the header's merkle root."""

    transactions: Sequence[Tx]
    previous: bytes = bytes(32)
    time: int = 1_700_000_000
    bits: int = REGTEST_BITS
    version: int = 0x20000000
    mined_for: Sequence[Tx] | None = None
    root: bytes | None = None
    net: Network = field(default_factory=lambda: REGTEST)

    @property
    def raw(self) -> bytes:
        whole = self.transactions
        root = self.root or merkle([tx.txid for tx in self.mined_for or whole])[0]
        header = mine(self.previous, root, self.time, self.bits, self.version, self.net)
        return header + size(len(whole)) + b"".join(tx.raw for tx in whole)


def mine(
    previous: bytes,
    root: bytes = bytes(32),
    time: int = 1_700_000_000,
    bits: int = REGTEST_BITS,
    version: int = 0x20000000,
    net: Network = REGTEST,
) -> bytes:
    """A header with proof of work for an easy target."""
    target = decode_bits(bits)
    assert target is not None
    assert target >> 236, "too hard to mine in a test"
    for nonce in range(1 << 32):
        header = struct.pack("<i32s32sIII", version, previous, root, time, bits, nonce)
        if int.from_bytes(net.pow_hash(header), "little") <= target:
            return header
    raise AssertionError("no nonce")


def good_block(height: int = 100, plain: int = 3, witnesses: int = 3) -> Made:
    """A valid regtest block with that many transactions of each sort."""
    others = [pay(i + 1) for i in range(plain)] + [pay_with_witness(i) for i in range(witnesses)]
    return Made([commit(coinbase(height), others), *others])
