"""The twin of ``native/block.c``: reads a block the plain way, judges it as Bitcoin Core does."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

SIZE_MAX = 0x02000000
COMMITMENT = bytes.fromhex("6a24aa21a9ed")


class Refused(Exception):
    def __init__(self, reason: str, mutated: bool) -> None:
        super().__init__(reason, mutated)
        self.reason, self.mutated = reason, mutated


@dataclass
class Rules:
    bytes_max: int = 4_000_000
    weight_max: int = 4_000_000
    money_max: int = 21_000_000 * 100_000_000
    height: int | None = None
    bip34_height: int = 1
    segwit_height: int = 0


@dataclass
class Transaction:
    start: int
    base: bytes
    total: bytes
    inputs: list[tuple[bytes, bytes]] = field(default_factory=list)  # outpoint, scriptSig
    outputs: list[tuple[int, bytes]] = field(default_factory=list)
    witnesses: list[list[bytes]] = field(default_factory=list)

    @property
    def txid(self) -> bytes:
        return sha256d(self.base)

    @property
    def wtxid(self) -> bytes:
        return sha256d(self.total)

    @property
    def has_witness(self) -> bool:
        return any(self.witnesses)

    @property
    def is_coinbase(self) -> bool:
        return len(self.inputs) == 1 and self.inputs[0][0] == bytes(32) + b"\xff" * 4


@dataclass
class Judged:
    txids: list[bytes]
    offsets: list[int]
    weight: int
    has_witness: bool
    coinbase_height: int | None


def sha256d(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def merkle(leaves: list[bytes]) -> tuple[bytes, bool]:
    """Root, and whether two equal nodes stood side by side at any level."""
    mutated = False
    level = leaves or [bytes(32)]
    while len(level) > 1:
        mutated |= any(a == b for a, b in zip(level[::2], level[1::2], strict=False))
        if len(level) % 2:
            level = [*level, level[-1]]
        level = [sha256d(a + b) for a, b in zip(level[::2], level[1::2], strict=True)]
    return level[0], mutated


class Reader:
    def __init__(self, raw: bytes, at: int = 0) -> None:
        self.raw, self.at = raw, at

    @property
    def left(self) -> int:
        return len(self.raw) - self.at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise Refused("truncated", True)
        self.at += count
        return self.raw[self.at - count : self.at]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def size(self) -> int:
        first = self.number(1)
        if first < 0xFD:
            return first
        width, least = {0xFD: (2, 0xFD), 0xFE: (4, 1 << 16), 0xFF: (8, 1 << 32)}[first]
        value = self.number(width)
        if value < least:
            raise Refused("non-canonical-size", True)
        if value > SIZE_MAX:
            raise Refused("size-too-large", True)
        return value

    def count(self, bytes_min: int) -> int:
        value = self.size()
        if value * bytes_min > self.left:
            raise Refused("truncated", True)
        return value

    def vector(self) -> bytes:
        return self.take(self.size())


def read_transaction(reader: Reader) -> Transaction:
    start = reader.at
    version = reader.take(4)
    body_start = reader.at
    flags = 0
    count = reader.count(41)
    if count == 0:
        flags = reader.number(1)
        if flags & ~1:
            raise Refused("unknown-tx-flags", True)
        if flags:
            body_start = reader.at
            count = reader.count(41)
    transaction = Transaction(start, b"", b"")
    for _ in range(count):
        transaction.inputs.append((reader.take(36), reader.vector()))
        reader.take(4)
    if count or flags:
        for _ in range(reader.count(9)):
            value = int.from_bytes(reader.take(8), "little", signed=True)
            transaction.outputs.append((value, reader.vector()))
    body = reader.raw[body_start : reader.at]
    if flags:
        for _ in range(count):
            transaction.witnesses.append([reader.vector() for _ in range(reader.count(1))])
        if not transaction.has_witness:
            raise Refused("superfluous-witness", True)
    locktime = reader.take(4)
    transaction.base = version + body + locktime
    transaction.total = reader.raw[start : reader.at]
    return transaction


def fault(transaction: Transaction, rules: Rules) -> str | None:
    """CheckTransaction of Bitcoin Core, without the search for duplicate inputs."""
    if not transaction.inputs:
        return "bad-txns-vin-empty"
    if not transaction.outputs:
        return "bad-txns-vout-empty"
    if len(transaction.base) * 4 > rules.weight_max:
        return "bad-txns-oversize"
    total = 0
    for value, _ in transaction.outputs:
        if value < 0:
            return "bad-txns-vout-negative"
        if value > rules.money_max:
            return "bad-txns-vout-toolarge"
        total += value
        if total > rules.money_max:
            return "bad-txns-txouttotal-toolarge"
    if transaction.is_coinbase:
        return None if 2 <= len(transaction.inputs[0][1]) <= 100 else "bad-cb-length"
    if any(outpoint == bytes(32) + b"\xff" * 4 for outpoint, _ in transaction.inputs):
        return "bad-txns-prevout-null"
    return None


def push_of_height(height: int) -> bytes:
    """How BIP34 and Bitcoin Core's CScript write a height."""
    if height == 0:
        return b"\x00"
    if height <= 16:
        return bytes([0x50 + height])
    data = height.to_bytes(height.bit_length() // 8 + 1, "little")
    return bytes([len(data)]) + data


def height_of(script: bytes) -> int | None:
    """The height whose push opens the script: tried out, not parsed."""
    opcode = script[0] if script else 0xFF
    candidates = [opcode - 0x50 if opcode >= 0x51 else 0]
    candidates.append(int.from_bytes(script[1 : 1 + min(opcode, 5)], "little"))
    for height in candidates:
        if script and opcode <= 0x60 and script.startswith(push_of_height(height)):
            return height
    return None


def judge(raw: bytes, rules: Rules) -> Judged:
    """Raises Refused as ``sp_block_feed`` refuses, else says what the block holds."""
    if len(raw) > rules.bytes_max:
        raise Refused("bad-blk-length", True)
    reader = Reader(raw, 80)
    if len(raw) < 80:
        raise Refused("truncated", True)
    count = reader.count(10)
    overhead = reader.at
    transactions = [read_transaction(reader) for _ in range(count)]
    if reader.left:
        raise Refused("trailing-bytes", True)
    _judge_mutation(raw, rules, transactions)
    base = overhead + sum(len(each.base) for each in transactions)
    if not transactions or len(transactions) * 4 > rules.weight_max or base * 4 > rules.weight_max:
        raise Refused("bad-blk-length", False)
    if not transactions[0].is_coinbase:
        raise Refused("bad-cb-missing", False)
    if any(each.is_coinbase for each in transactions[1:]):
        raise Refused("bad-cb-multiple", False)
    for each in transactions:
        if reason := fault(each, rules):
            raise Refused(reason, False)
    height = height_of(transactions[0].inputs[0][1])
    if rules.height is not None and rules.height >= rules.bip34_height and height != rules.height:
        raise Refused("bad-cb-height", False)
    weight = 3 * base + overhead + sum(len(each.total) for each in transactions)
    if weight > rules.weight_max:
        raise Refused("bad-blk-weight", False)
    return Judged(
        [each.txid for each in transactions],
        [each.start for each in transactions],
        weight,
        any(each.has_witness for each in transactions),
        height,
    )


def _judge_mutation(raw: bytes, rules: Rules, transactions: list[Transaction]) -> None:
    root, duplicated = merkle([each.txid for each in transactions])
    if root != raw[36:68]:
        raise Refused("bad-txnmrklroot", True)
    if duplicated:
        raise Refused("bad-txns-duplicate", True)
    if not transactions or not transactions[0].is_coinbase:
        if any(len(each.base) == 64 for each in transactions):
            raise Refused("bad-cb-missing", True)
        return
    coinbase = transactions[0]
    commitments = [
        script[6:38]
        for _, script in coinbase.outputs
        if len(script) >= 38 and script.startswith(COMMITMENT)
    ]
    if commitments and _expects_commitment(raw, rules, transactions):
        stack = coinbase.witnesses[0] if coinbase.witnesses else []
        if len(stack) != 1 or len(stack[0]) != 32:
            raise Refused("bad-witness-nonce-size", True)
        root, _ = merkle([bytes(32), *(each.wtxid for each in transactions[1:])])
        if sha256d(root + stack[0]) != commitments[-1]:
            raise Refused("bad-witness-merkle-match", True)
    elif any(each.has_witness for each in transactions):
        raise Refused("unexpected-witness", True)


def _expects_commitment(raw: bytes, rules: Rules, transactions: list[Transaction]) -> bool:
    height = rules.height
    if rules.segwit_height <= 0:
        return True
    if height is None and int.from_bytes(raw[:4], "little", signed=True) >= 2:
        height = height_of(transactions[0].inputs[0][1])
    if height is None:
        return any(each.has_witness for each in transactions)
    return height >= rules.segwit_height
