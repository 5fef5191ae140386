"""Blocks out of transactions: coinbase, merkle root, witness commitment, proof of work.

The rules are regtest's in Bitcoin Core: BIP34 height in the coinbase, a witness commitment (BIP141)
in every block, subsidy halved every 150 blocks, and a target that every second header meets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec

from bitcoin_sprint.chains import Network
from bitcoin_sprint.ingest.simulator.transactions import (
    Coin,
    Lock,
    SimTransaction,
    compact_size,
    push,
    sha256d,
)

WEIGHT_MAX: Final = 4_000_000
COINBASE_WEIGHT_MAX: Final = 2_000
"""Weight units that a block keeps free for header, count and coinbase."""

_SUBSIDY = 5_000_000_000
_HALVING_BLOCKS = 150
_VERSION = (0x2000_0000).to_bytes(4, "little")
_COMMITMENT = b"\x6a\x24\xaa\x21\xa9\xed"


class SimBlock(msgspec.Struct, eq=False, frozen=True):
    """A mined block. Hashes in internal byte order; ``transactions`` without the coinbase."""

    hash: bytes
    previous: bytes
    height: int
    time: int
    header: bytes
    raw: bytes
    weight: int
    coinbase: SimTransaction
    transactions: Sequence[SimTransaction]


class Template(msgspec.Struct, frozen=True):
    """What a block is mined on: its parent, height and time, and words that make it unique."""

    previous: bytes
    height: int
    time: int
    words: bytes


def subsidy(height: int) -> int:
    """New satoshi that the block at ``height`` may create on regtest."""
    halvings = height // _HALVING_BLOCKS
    return _SUBSIDY >> halvings if halvings < 64 else 0


def merkle_root(hashes: Sequence[bytes]) -> bytes:
    """Root of Bitcoin's merkle tree over at least one hash of 32 bytes."""
    sha256 = hashlib.sha256
    layer = list(hashes)
    while len(layer) > 1:
        if len(layer) & 1:
            layer.append(layer[-1])
        layer = [
            sha256(sha256(layer[index] + layer[index + 1]).digest()).digest()
            for index in range(0, len(layer), 2)
        ]
    return layer[0]


def script_number(value: int) -> bytes:
    """The script that pushes a number from 0 up, as BIP34 wants the height."""
    if value == 0:
        return b"\x00"
    if value <= 16:
        return bytes((0x50 + value,))
    return push(value.to_bytes(value.bit_length() // 8 + 1, "little"))


def mine(
    network: Network, template: Template, transactions: Sequence[SimTransaction], lock: Lock
) -> SimBlock:
    """The next valid block with these transactions; ``lock`` takes subsidy and fees.

    Parents must stand before their children, and the weight must leave ``COINBASE_WEIGHT_MAX``
    free; neither is checked here.
    """
    witness_root = merkle_root([bytes(32), *(each.wtxid for each in transactions)])
    value = subsidy(template.height) + sum(each.fee for each in transactions)
    coinbase = _coinbase(template, value, lock, sha256d(witness_root + bytes(32)))
    root = merkle_root([coinbase.txid, *(each.txid for each in transactions)])
    header = _grind(network, template, root)
    count = compact_size(len(transactions) + 1)
    raw = b"".join((header, count, coinbase.raw, *(each.raw for each in transactions)))
    weight = (80 + len(count)) * 4 + coinbase.weight + sum(each.weight for each in transactions)
    return SimBlock(
        hash=network.block_hash(header),
        previous=template.previous,
        height=template.height,
        time=template.time,
        header=header,
        raw=raw,
        weight=weight,
        coinbase=coinbase,
        transactions=tuple(transactions),
    )


def overhead(template: Template, lock: Lock, transaction_count: int) -> int:
    """Weight units of header, count and coinbase in a block of that many other transactions."""
    coinbase = _coinbase(template, 0, lock, bytes(32))
    return (80 + len(compact_size(transaction_count + 1))) * 4 + coinbase.weight


def _coinbase(template: Template, value: int, lock: Lock, commitment: bytes) -> SimTransaction:
    kind, unlock, output_script = lock
    # A scriptSig has at least two bytes, which BIP34 alone does not give below height 17.
    script = script_number(template.height) + push(template.words)
    output = value.to_bytes(8, "little") + compact_size(len(output_script)) + output_script
    pledge = _COMMITMENT + commitment
    body = b"".join(
        (
            b"\x01" + bytes(32) + b"\xff\xff\xff\xff",
            compact_size(len(script)) + script + b"\xff\xff\xff\xff",
            b"\x02" + output,
            bytes(8) + compact_size(len(pledge)) + pledge,
        )
    )
    stripped = b"\x02\x00\x00\x00" + body + bytes(4)
    raw = b"\x02\x00\x00\x00\x00\x01" + body + b"\x01\x20" + bytes(32) + bytes(4)
    txid = sha256d(stripped)
    coin = Coin(txid + bytes(4), value, kind, unlock)
    weight = len(stripped) * 3 + len(raw)
    return SimTransaction(raw, txid, sha256d(raw), weight, 0, (), (coin,) if value else ())


def _grind(network: Network, template: Template, root: bytes) -> bytes:
    """The header with the first nonce that meets the network's easiest target."""
    target = network.pow_limit
    front = b"".join(
        (
            _VERSION,
            template.previous,
            root,
            template.time.to_bytes(4, "little"),
            network.genesis[72:76],
        )
    )
    for nonce in range(1 << 32):
        header = front + nonce.to_bytes(4, "little")
        if int.from_bytes(network.pow_hash(header), "little") <= target:
            return header
    raise RuntimeError("no nonce meets the target; is this network really regtest?")
