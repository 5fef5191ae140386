"""Blocks that come as from a network, and what of their proof is left when the last byte is in."""

from __future__ import annotations

import itertools
import os
import random
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.report import progress
from bitcoin_sprint.chains import network
from bitcoin_sprint.ingest.simulator import blocks as simulator
from bitcoin_sprint.ingest.simulator.transactions import CoinKind, SimTransaction
from bitcoin_sprint.native import ffi, lib
from bitcoin_sprint.validate import prove_block, prove_transaction

PIECE_BYTES = 1_448  # what one TCP segment carries over Ethernet
PIECE_NS = 11_600  # at 1 Gbit/s
_RECORDED = {
    "block413567.raw": "main",
    "block426884.raw": "main",
    "block481829.dat": "main",
    "block702861.raw": "main",
    "block928816.raw": "testnet3",
    "block928849.raw": "testnet3",
}


@dataclass(frozen=True)
class Block:
    """A raw block, and what it is called in the rows."""

    name: str
    raw: bytes


def recorded_blocks() -> list[Block]:
    """Real ones of 1 MB and more, from the folder that SPRINT_TEST_DATA names; else none."""
    folder = os.environ.get("SPRINT_TEST_DATA")
    if not folder:
        progress("SPRINT_TEST_DATA is not set: blocks of made transactions only")
        return []
    blocks = []
    for file, net in _RECORDED.items():
        raw = Path(folder, "bitcoin", file).read_bytes()
        count = prove_block(raw, network(net)).tx_count
        name = f"{net} {file.removeprefix('block').partition('.')[0]}"
        blocks.append(Block(f"{name}, {len(raw) / 1e6:.2f} MB, {count} transactions", raw))
    return blocks


def joined_block(megabytes: int, recorded: list[Block], seed: int) -> Block:
    """A block of just that size out of the recorded ones' transactions in random order, or of made
    ones: two such differ in nothing but the size. Its weight may be beyond what is allowed."""
    dice = random.Random(1_000 * megabytes + seed)
    of = list(_transactions(recorded)) or [_made_transaction(dice) for _ in range(7_000)]
    dice.shuffle(of)
    taken: list[SimTransaction] = []
    room = megabytes * 1_000_000
    for raw in of:
        if len(raw) < room - 500:
            txid, wtxid = prove_transaction(raw)
            taken.append(SimTransaction(raw, txid, wtxid, 0, 0, (), ()))
            room -= len(raw)
    template = simulator.Template(bytes(32), 100, 1_700_000_000, b"bench")
    raw = simulator.mine(network("regtest"), template, taken, (CoinKind.BARE, b"", b"\x51")).raw
    kind = "recorded" if recorded else "made"
    return Block(f"{megabytes} MB of {kind} transactions", raw)


def _transactions(blocks: list[Block]) -> Iterator[bytes]:
    for block in blocks:
        proved = prove_block(block.raw, network(block.name.partition(" ")[0]))
        ends = [*proved.offsets[1:].tolist(), len(block.raw)]
        yield from (block.raw[start:end] for start, end in itertools.pairwise(ends))


def _made_transaction(dice: random.Random) -> bytes:
    """One to three inputs that two of three keys sign for, one or two outputs."""
    inputs, outputs = dice.randint(1, 3), dice.randint(1, 2)
    spent = b"".join(dice.randbytes(36) + b"\x00" + b"\xff" * 4 for _ in range(inputs))
    made = b"".join(
        struct.pack("<q", 1_000) + b"\x16\x00\x14" + dice.randbytes(20) for _ in range(outputs)
    )
    stack = b"\x04\x00\x48" + dice.randbytes(72) + b"\x48" + dice.randbytes(72) + b"\x69"
    stacks = b"".join(stack + dice.randbytes(105) for _ in range(inputs))
    body = bytes([inputs]) + spent + bytes([outputs]) + made
    return b"\x02\0\0\0\0\x01" + body + stacks + bytes(4)


class Trickle:
    """One block, received again and again in pieces that are cut elsewhere each time."""

    def __init__(self, block: Block) -> None:
        self.name = block.name
        self._raw = block.raw
        self._dice = random.Random(len(block.raw))
        rules = [len(block.raw), 2**32, 21 * 10**14, -1, 2**31, 0, 0]
        self._rules = ffi.new("sp_block_rules *", rules)
        self._memory = ffi.new("uint8_t[]", len(block.raw))
        self._proof = ffi.new("sp_block *")
        self._trailer: Any = None

    def left_ns(self) -> int:
        """Receives the block at a network's pace; from its last byte to the verdict."""
        total, raw, memory, proof = len(self._raw), self._raw, self._memory, self._proof
        clock, feed = time.perf_counter_ns, lib.sp_block_feed
        source = ffi.from_buffer("uint8_t[]", raw)
        lib.sp_block_begin(proof, self._rules, memory, total)
        have, due = self._dice.randint(81, PIECE_BYTES), clock()
        ffi.memmove(memory, source, have)
        while (code := feed(proof, have)) != lib.SP_PROVED:
            if code == lib.SP_TRAILER_WANTED:
                self._set_trailer()
                continue
            if code != lib.SP_MORE or have == total:
                raise ValueError(f"{self.name}: {ffi.string(lib.sp_refusal_word(code)).decode()}")
            piece = min(PIECE_BYTES, total - have)
            ffi.memmove(memory + have, source + have, piece)
            have += piece
            due += PIECE_NS
            while clock() < due:
                pass
            begun = clock()
        return clock() - begun

    def _set_trailer(self) -> None:
        if self._trailer is None:
            count = self._proof.facts.tx_count
            needed = lib.sp_block_trailer_bytes(len(self._raw), count)
            self._trailer = ffi.new("uint8_t[]", needed)
        lib.sp_block_set_trailer(self._proof, self._trailer)
