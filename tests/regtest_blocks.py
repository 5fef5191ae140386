"""Small valid regtest blocks for tests: trees of them, and copies that are wrong in a known way."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bitcoin_sprint.chains import network
from bitcoin_sprint.ingest.simulator.blocks import SimBlock, Template, mine
from bitcoin_sprint.ingest.simulator.transactions import (
    CoinKind,
    SimTransaction,
    compact_size,
    sha256d,
)

REGTEST = network("regtest")
START_TIME = 1_700_000_000
"""Time of the block at height 1; each height is ten minutes later."""

_ANYONE = (CoinKind.BARE, b"", b"\x51")


class Parent(msgspec.Struct, frozen=True):
    """What a block is mined on."""

    hash: bytes = REGTEST.genesis_hash
    height: int = 0


GENESIS = Parent()


def next_block(
    parent: Parent | SimBlock = GENESIS,
    *,
    words: str = "",
    claimed_height: int | None = None,
    time: int | None = None,
    transactions: Sequence[SimTransaction] = (),
) -> SimBlock:
    """A block on ``parent``. ``words`` tells siblings apart; ``claimed_height`` lies (BIP34)."""
    height = parent.height + 1
    block = mine(
        REGTEST,
        Template(
            parent.hash,
            height if claimed_height is None else claimed_height,
            START_TIME + 600 * height if time is None else time,
            f"test {words}".encode(),
        ),
        transactions,
        _ANYONE,
    )
    return msgspec.structs.replace(block, height=height)


def chain_of(
    length: int, parent: Parent | SimBlock = GENESIS, *, words: str = ""
) -> list[SimBlock]:
    """``length`` blocks, one on the other, the first on ``parent``."""
    blocks: list[SimBlock] = []
    for _ in range(length):
        parent = next_block(parent, words=words)
        blocks.append(parent)
    return blocks


def with_wrong_witness(block: SimBlock) -> bytes:
    """A mutated copy: the same header, another witness in the coinbase."""
    return block.raw[:-5] + b"\x01" + block.raw[-4:]


def bulky_transaction(length: int) -> SimTransaction:
    """A well-formed transaction of at least ``length`` bytes, most of them witness."""
    raw, txid = transaction(length, witness=bytes(length))
    return SimTransaction(raw, txid, sha256d(raw), length + 400, 0, (), ())


def transaction(number: int, *, witness: bytes = b"\x01") -> tuple[bytes, bytes]:
    """A well-formed transaction that spends nothing real, and its txid."""
    outpoint = sha256d(number.to_bytes(8, "little")) + bytes(4)
    inner = b"\x01" + outpoint + b"\x00\xff\xff\xff\xff" + b"\x01" + bytes(8) + b"\x01\x51"
    stripped = b"\x02\x00\x00\x00" + inner + bytes(4)
    stack = b"\x01" + compact_size(len(witness)) + witness
    return b"\x02\x00\x00\x00\x00\x01" + inner + stack + bytes(4), sha256d(stripped)
