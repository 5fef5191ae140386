"""Transactions that validate without a signature: realistic in size and shape, spendable by anyone.

Every script drops two pushes, where a payment would carry its signature and public key, and leaves
true. A spend of a P2WSH output is thus within a few bytes of a P2WPKH spend, a bare one of P2PKH.
All of it is valid under Bitcoin Core's consensus rules, and the P2WSH and P2SH kinds are standard
for its mempool too, so that the chain needs no elliptic curve library.

What is made depends on the generator's seed and the calls alone.
"""

from __future__ import annotations

import enum
import hashlib
import random
from collections.abc import Sequence
from typing import Final

import msgspec

FEE_RATE_MAX: Final = 40
"""Satoshi a virtual byte; the least is 1."""
OUTPUT_VALUE_MIN: Final = 1_000
"""Satoshi; above every dust limit of the scripts used here."""
WITNESS_ITEM_MAX: Final = 520
"""Bytes that consensus allows in one item of a P2WSH witness stack."""
FILLER_WEIGHT_MIN: Final = 410
FILLER_WEIGHT_MAX: Final = 1_160
"""Bounds, in weight units, within which ``make_filler`` meets any weight exactly."""

_DATA_SHARE = 0.04
_SEGWIT_INPUT_SIZE = 76
_LEGACY_INPUT_SIZE = 160
_DROP_BOTH_TRUE = b"\x6d\x51"  # OP_2DROP OP_TRUE
_SEQUENCE = b"\xfd\xff\xff\xff"  # final to consensus, replaceable to policy
_SEGWIT_HEADER = b"\x02\x00\x00\x00\x00\x01"  # version 2, marker, flag

# Redeem scripts <tag> DROP 2DROP TRUE with the RIPEMD160(SHA256()) of each written down, since
# OpenSSL 3 offers RIPEMD160 on some hosts only.
_P2SH: Final = (
    (bytes.fromhex("0473703031756d51"), bytes.fromhex("1d3be4b589729f3a02687765aeff6833337227ae")),
    (bytes.fromhex("0473703032756d51"), bytes.fromhex("c1e2ad4a3e407ca486f0f48c3a76185a6fe692e8")),
    (bytes.fromhex("0473703033756d51"), bytes.fromhex("68e127fa6084d56fc1d31f38becbb6d608fd4f8a")),
    (bytes.fromhex("0473703034756d51"), bytes.fromhex("0f9552551a6be72631a553f752be0bf3dea0d177")),
)

# (inputs, outputs): share in percent. About what mainnet blocks show: 2.3 inputs, 2.9 outputs.
_SHAPES: Final = tuple(
    shape
    for shape, share in (
        ((1, 1), 14),
        ((1, 2), 47),
        ((2, 1), 5),
        ((2, 2), 14),
        ((3, 2), 6),
        ((5, 1), 3),
        ((8, 2), 2),
        ((1, 4), 5),
        ((2, 8), 2),
        ((1, 30), 1),
        ((40, 1), 1),
    )
    for _ in range(share)
)

Lock = tuple["CoinKind", bytes, bytes]
"""Kind, the script that unlocks it (see ``Coin.script``), the output script."""


class CoinKind(enum.IntEnum):
    """How an output is locked."""

    P2WSH = 0
    P2SH = 1
    BARE = 2


class Coin(msgspec.Struct, eq=False, frozen=True, gc=False):
    """An output that a later transaction spends. ``script`` unlocks it: a witness script, a
    redeem script, empty where the output is bare. Two coins are the same only if identical."""

    outpoint: bytes
    value: int
    kind: CoinKind
    script: bytes


class SimTransaction(msgspec.Struct, eq=False, frozen=True):
    """A transaction in its network form, its ids in internal byte order, weight in weight units."""

    raw: bytes
    txid: bytes
    wtxid: bytes
    weight: int
    fee: int
    spent: Sequence[Coin]
    created: Sequence[Coin]

    @property
    def has_witness(self) -> bool:
        return self.raw[4] == 0


def sha256d(data: bytes) -> bytes:
    """Bitcoin's double SHA-256."""
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def compact_size(value: int) -> bytes:
    """Bitcoin's variable-length count, up to 32 bits."""
    if value < 0xFD:
        return value.to_bytes(1, "little")
    if value <= 0xFFFF:
        return b"\xfd" + value.to_bytes(2, "little")
    return b"\xfe" + value.to_bytes(4, "little")


def p2wsh_script(witness_script: bytes) -> bytes:
    """The output script that pays to a witness script."""
    return b"\x00\x20" + hashlib.sha256(witness_script).digest()


def spend_cost_max(input_count: int, output_count: int) -> int:
    """Satoshi with which so many inputs of any kind can always pay for so many outputs."""
    return 120 + _LEGACY_INPUT_SIZE * input_count + 43 * output_count + OUTPUT_VALUE_MIN * 3


def push(data: bytes) -> bytes:
    """A script that pushes up to 65,535 bytes in the shortest way (small integers excepted)."""
    if len(data) < 0x4C:
        return bytes((len(data),)) + data
    if len(data) <= 0xFF:
        return b"\x4c" + bytes((len(data),)) + data
    return b"\x4d" + len(data).to_bytes(2, "little") + data


class TransactionMaker:
    """Makes transactions out of coins. Not safe across threads."""

    def __init__(self, rng: random.Random, *, legacy_share: float = 0.12) -> None:
        """``legacy_share``: part of the outputs, 0 to 1, that are P2SH or bare instead of P2WSH."""
        self._rng = rng
        self._legacy_share = legacy_share

    def shape(self) -> tuple[int, int]:
        """Counts of inputs and outputs for the next transaction."""
        return _SHAPES[int(self._rng.random() * len(_SHAPES))]

    def make(
        self, coins: Sequence[Coin], output_count: int, *, data: bytes | None = None
    ) -> SimTransaction:
        """A transaction that spends ``coins`` (at least one) to up to ``output_count`` new coins.

        Fewer outputs are made where the value does not reach for all. One more carries ``data``, if
        it is not empty, instead of value; None leaves that to chance. Raises ValueError where the
        coins cannot pay for it (see ``spend_cost_max``).
        """
        rng = self._rng
        if data is None:
            carries = rng.random() < _DATA_SHARE
            data = rng.randbytes(20 + int(rng.random() * 60)) if carries else b""
        size = 12 + 43 * output_count + len(data) + 12
        for coin in coins:
            size += _SEGWIT_INPUT_SIZE if coin.kind is CoinKind.P2WSH else _LEGACY_INPUT_SIZE
        total = sum(coin.value for coin in coins)
        fee = size + int(size * (FEE_RATE_MAX - 1) * rng.random() ** 3)
        if total < fee + OUTPUT_VALUE_MIN:
            fee = size
        if total < fee + OUTPUT_VALUE_MIN:
            raise ValueError(f"coins of {total} satoshi cannot pay for a transaction")
        values = self._split(total - fee, output_count)
        locks = [self.lock() for _ in values]
        return self._assemble(coins, values, locks, fee, data, ())

    def make_filler(self, coin: Coin, weight: int) -> SimTransaction:
        """A transaction of exactly ``weight`` weight units that spends one P2WSH coin."""
        if coin.kind is not CoinKind.P2WSH or coin.value < OUTPUT_VALUE_MIN * 3:
            raise ValueError("a filler spends a P2WSH coin of some value")
        if not FILLER_WEIGHT_MIN <= weight <= FILLER_WEIGHT_MAX:
            raise ValueError(
                f"a filler weighs {FILLER_WEIGHT_MIN} to {FILLER_WEIGHT_MAX}, not {weight}"
            )
        fee = OUTPUT_VALUE_MIN * 2
        values = [coin.value - fee]
        locks = [self._segwit_lock()]
        probe = self._assemble([coin], values, locks, fee, b"", [b"\x01", b"\x01"])
        surplus = weight - probe.weight
        first = min(surplus, 240)
        second = surplus - first
        # An item of 253 bytes or more takes two further bytes for its length.
        if second in (252, 253):
            first, second = first + 2, second - 2
        elif second > 253:
            second -= 2
        items = [b"\x01" * (1 + first), b"\x01" * (1 + second)]
        return self._assemble([coin], values, locks, fee, b"", items)

    def lock(self) -> Lock:
        """A fresh lock of a kind drawn by share."""
        draw = self._rng.random()
        if draw >= self._legacy_share:
            return self._segwit_lock()
        if draw < self._legacy_share / 2:
            redeem, script_hash = _P2SH[int(self._rng.random() * len(_P2SH))]
            return CoinKind.P2SH, redeem, b"\xa9\x14" + script_hash + b"\x87"
        return CoinKind.BARE, b"", b"\x14" + self._rng.randbytes(20) + b"\x75" + _DROP_BOTH_TRUE

    def _segwit_lock(self) -> Lock:
        script = b"\x14" + self._rng.randbytes(20) + b"\x75" + _DROP_BOTH_TRUE
        return CoinKind.P2WSH, script, p2wsh_script(script)

    def _split(self, total: int, count: int) -> list[int]:
        """Values of up to ``count`` outputs that sum to ``total``, each above dust, of any size."""
        count = min(count, max(1, total // (OUTPUT_VALUE_MIN * 4)))
        values = []
        for left in range(count, 1, -1):
            even = total // left
            value = max(OUTPUT_VALUE_MIN, int(even * (0.25 + 1.5 * self._rng.random())))
            value = min(value, total - OUTPUT_VALUE_MIN * (left - 1))
            values.append(value)
            total -= value
        values.append(total)
        return values

    def _assemble(
        self,
        coins: Sequence[Coin],
        values: Sequence[int],
        locks: Sequence[Lock],
        fee: int,
        data: bytes,
        filling: Sequence[bytes],
    ) -> SimTransaction:
        """Serialise. ``filling`` replaces the two dropped items of a single P2WSH input."""
        inputs = []
        witnesses = []
        has_witness = False
        for coin in coins:
            items = filling or self._signature_and_key()
            if coin.kind is CoinKind.P2WSH:
                has_witness = True
                inputs.append(coin.outpoint + b"\x00" + _SEQUENCE)
                stack = [b"\x03"]
                for item in (*items, coin.script):
                    stack += (compact_size(len(item)), item)
                witnesses.append(b"".join(stack))
            else:
                unlock = push(items[0]) + push(items[1])
                if coin.script:
                    unlock += push(coin.script)
                inputs.append(coin.outpoint + compact_size(len(unlock)) + unlock + _SEQUENCE)
                witnesses.append(b"\x00")
        outputs = [
            value.to_bytes(8, "little") + compact_size(len(lock[2])) + lock[2]
            for value, lock in zip(values, locks, strict=True)
        ]
        if data:
            script = b"\x6a" + push(data)
            outputs.append(bytes(8) + compact_size(len(script)) + script)
        body = b"".join((compact_size(len(inputs)), *inputs, compact_size(len(outputs)), *outputs))
        stripped = b"\x02\x00\x00\x00" + body + b"\x00\x00\x00\x00"
        txid = wtxid = sha256d(stripped)
        raw = stripped
        if has_witness:
            raw = b"".join((_SEGWIT_HEADER, body, *witnesses, b"\x00\x00\x00\x00"))
            wtxid = sha256d(raw)
        created = tuple(
            Coin(txid + index.to_bytes(4, "little"), value, lock[0], lock[1])
            for index, (value, lock) in enumerate(zip(values, locks, strict=True))
        )
        weight = len(stripped) * 3 + len(raw)
        return SimTransaction(raw, txid, wtxid, weight, fee, tuple(coins), created)

    def _signature_and_key(self) -> tuple[bytes, bytes]:
        """Bytes in the form and size of a DER signature with its hash type, and a public key."""
        noise = self._rng.randbytes(97)
        if noise[96] & 1:
            signature = b"\x30\x44\x02\x20" + noise[:32] + b"\x02\x20" + noise[32:64] + b"\x01"
        else:
            signature = b"\x30\x45\x02\x21\x00" + noise[:32] + b"\x02\x20" + noise[32:64] + b"\x01"
        return signature, b"\x02" + noise[64:96]
