"""A block in pieces: the same ids by every SHA-256, and nothing left to do for what has come."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from made_blocks import Made, Tx, coinbase, commit, pay, pay_with_witness

from bitcoin_sprint.native import ffi, lib

PIECE = 1_448  # what one TCP segment carries over Ethernet
WINDOW = 2_048 + PIECE  # what of a block may still be looked at: a transaction's start, and a piece


def names() -> list[str]:
    found = []
    while (variant := lib.sp_sha256_variant_at(len(found))) != ffi.NULL:
        found.append(bytes(ffi.string(variant.name)).decode())
    return found


@pytest.fixture(params=names())
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    """One variant does all the hashing of this test."""
    assert lib.sp_sha256_force(request.param.encode()) == 0
    yield request.param
    assert lib.sp_sha256_force(ffi.NULL) == 0


class Feeding:
    """A block under proof whose bytes come when the test says so."""

    def __init__(self, raw: bytes) -> None:
        self.memory = bytearray(raw)
        self.have = 0
        self._total = len(raw)
        self._block = ffi.new("sp_block *")
        rules = ffi.new("sp_block_rules *", [4_000_000, 4_000_000, 21 * 10**14, 100, 50, 0, 0])
        self._source = ffi.from_buffer("uint8_t[]", self.memory)
        assert lib.sp_block_begin(self._block, rules, self._source, self._total) == lib.SP_PROVED
        self._trailer = None

    def feed(self, have: int) -> str:
        self.have = min(have, self._total)
        code = lib.sp_block_feed(self._block, self.have)
        if code == lib.SP_TRAILER_WANTED:
            needed = lib.sp_block_trailer_bytes(self._total, self._block.facts.tx_count)
            self._trailer = ffi.new("uint8_t[]", needed)
            lib.sp_block_set_trailer(self._block, self._trailer)
            code = lib.sp_block_feed(self._block, self.have)
        if code in (lib.SP_PROVED, lib.SP_MORE):
            return "proved" if code == lib.SP_PROVED else "more"
        return bytes(ffi.string(lib.sp_refusal_word(code))).decode()

    def feed_all(self, step: Callable[[], int]) -> str:
        while (word := self.feed(self.have + step())) == "more":
            assert self.have < self._total
        return word

    @property
    def txids(self) -> list[bytes]:
        count = self._block.facts.tx_count
        end = len(ffi.buffer(self._trailer)) - 16
        flat = bytes(ffi.buffer(self._trailer))[end - 32 * count : end]
        return [flat[i : i + 32] for i in range(0, len(flat), 32)]


def committed(*others: Tx) -> Made:
    return Made([commit(coinbase(100), others), *others])


def long_script(mark: int, length: int) -> Tx:
    return pay(mark, outputs=((1_000, bytes([0x6A]) + random.Random(mark).randbytes(length)),))


def long_witness(mark: int, length: int, items: int = 3) -> Tx:
    dice = random.Random(mark)
    stack = [dice.randbytes(length // items) for _ in range(items)]
    return pay(mark, witnesses=(stack,))


def long_both(mark: int, length: int) -> Tx:
    scripted = long_script(mark, length)
    return pay(mark, outputs=scripted.outputs, witnesses=((bytes(length), b"", b"key"),))


def many_inputs(mark: int, count: int) -> Tx:
    inputs = [(bytes([mark]) * 32 + i.to_bytes(4, "little"), bytes(107)) for i in range(count)]
    return Tx(inputs, witnesses=[(bytes(72), bytes(33))] * count)


BLOCKS = {
    "only a coinbase": committed(),
    "33 short": committed(*(pay(i + 1) for i in range(20)), *map(pay_with_witness, range(12))),
    "300 short": committed(*((pay, pay_with_witness)[i % 3 == 0](1_000 + i) for i in range(299))),
    "without commitment": Made([coinbase(100), *(pay(i + 1) for i in range(50))]),
    "a long script last": committed(pay(1), long_script(2, 20_000)),
    "a long witness last": committed(pay(1), long_witness(2, 30_000)),
    "long ones between short ones": committed(
        *(pay_with_witness(i) for i in range(9)), long_script(90, 5_000), pay(91),
        long_both(92, 6_000), *(pay(i + 100) for i in range(40)), long_witness(93, 4_200, 1),
        many_inputs(94, 60), many_inputs(95, 9), pay_with_witness(96),
    ),
    "of every length about the bounds": committed(
        *(long_script(i, length) for i, length in enumerate(range(1_980, 2_120, 9))),
        *(long_witness(50 + i, length, 1) for i, length in enumerate(range(3_980, 4_130, 9))),
    ),
}  # fmt: skip
EACH_BLOCK = pytest.mark.parametrize("name", BLOCKS)


@pytest.fixture(scope="module")
def raws() -> dict[str, bytes]:
    return {name: made.raw for name, made in BLOCKS.items()}


@EACH_BLOCK
def test_ids_are_the_same_in_any_pieces_by_any_variant(
    raws: dict[str, bytes], name: str, variant: str
) -> None:
    txids = [tx.txid for tx in BLOCKS[name].transactions]
    dice = random.Random(name)
    for most in (len(raws[name]), PIECE, 5_000, 300, 33):
        feeding = Feeding(raws[name])
        assert feeding.feed_all(lambda most=most: dice.randint(1, most)) == "proved"
        assert feeding.txids == txids, (variant, most)


def heads_of_long_elements(raw: bytes, made: Made) -> list[slice]:
    """Where scripts and witness items begin that come in several pieces: their lengths, and what
    tells a commitment, are read again with each piece, which is a few bytes."""
    elements = [script for tx in made.transactions for _, script in tx.outputs]
    elements += [item for tx in made.transactions for stack in tx.witnesses for item in stack]
    starts = [raw.index(element[:99]) for element in elements if len(element) > 1_000]
    return [slice(start - 11, start + 8) for start in starts]


@EACH_BLOCK
def test_what_has_come_is_not_looked_at_again(raws: dict[str, bytes], name: str) -> None:
    """So what is left after the last byte cannot grow with the block, nor with a transaction."""
    feeding = Feeding(raws[name])
    heads = heads_of_long_elements(raws[name], BLOCKS[name])
    while (word := feeding.feed(feeding.have + PIECE)) == "more":
        end = max(80, feeding.have - WINDOW)
        feeding.memory[80:end] = b"\xa5" * (end - 80)
        for head in heads:
            feeding.memory[head] = raws[name][head]
    assert word == "proved"
    assert feeding.txids == [tx.txid for tx in BLOCKS[name].transactions]


@pytest.mark.parametrize(("honest", "repeated"), [(48, 16), (33, 1), (96, 32), (65, 1), (6, 2)])
def test_a_repeated_end_is_told_at_every_level_of_the_tree(
    honest: int, repeated: int, variant: str
) -> None:
    """CVE-2012-2459: the root stays the same when the last nodes of an odd level are repeated."""
    whole = [coinbase(100), *(pay(i + 1) for i in range(honest - 1))]
    raw = Made([*whole, *whole[-repeated:]], mined_for=whole).raw
    dice = random.Random(honest)
    for most in (len(raw), PIECE, 100):
        feeding = Feeding(raw)
        word = feeding.feed_all(lambda most=most: dice.randint(1, most))
        assert word == "bad-txns-duplicate", (variant, most)
