"""The simulator's transactions have the bytes, sizes and values that they claim."""

from __future__ import annotations

import hashlib
import importlib
import random
from types import ModuleType

import pytest

from bitcoin_sprint.ingest.simulator import transactions as sim
from bitcoin_sprint.ingest.simulator.transactions import Coin, CoinKind, TransactionMaker


def coins_of(maker: TransactionMaker, rng: random.Random, count: int, value: int) -> list[Coin]:
    coins = []
    for _ in range(count):
        kind, script, _ = maker.lock()
        coins.append(Coin(rng.randbytes(36), value, kind, script))
    return coins


def maker_and_coins(seed: int, count: int) -> tuple[TransactionMaker, list[Coin]]:
    rng = random.Random(seed)
    maker = TransactionMaker(rng)
    return maker, coins_of(maker, rng, count, 1_000_000)


def test_value_in_is_value_out_and_fee() -> None:
    maker, coins = maker_and_coins(1, 300)
    for start in range(0, 300, 3):
        made = maker.make(coins[start : start + 3], 4)
        assert sum(coin.value for coin in made.spent) == made.fee + sum(
            coin.value for coin in made.created
        )
        assert all(coin.value >= sim.OUTPUT_VALUE_MIN for coin in made.created)
        assert made.fee * 4 >= made.weight, "below one satoshi a virtual byte"


def test_ids_and_weight_are_those_of_the_bytes() -> None:
    maker, coins = maker_and_coins(2, 200)
    kinds = set()
    for coin in coins:
        made = maker.make([coin], 2)
        kinds.add(coin.kind)
        assert made.wtxid == sim.sha256d(made.raw)
        assert made.has_witness == (coin.kind is CoinKind.P2WSH)
        if not made.has_witness:
            assert made.txid == made.wtxid
            assert made.weight == 4 * len(made.raw)
        assert made.created[0].outpoint == made.txid + bytes(4)
    assert kinds == set(CoinKind)


def test_the_oracle_reads_the_same_ids_and_sizes(btclib: ModuleType) -> None:
    read = importlib.import_module(f"{btclib.__name__}.tx.tx").Tx.parse
    maker, coins = maker_and_coins(3, 120)
    for start in range(0, 120, 2):
        made = maker.make(coins[start : start + 2], 3)
        parsed = read(made.raw)
        assert parsed.id[::-1] == made.txid
        assert parsed.hash[::-1] == made.wtxid
        assert parsed.weight == made.weight
        assert [out.value for out in parsed.vout][: len(made.created)] == [
            coin.value for coin in made.created
        ]


def test_the_same_seed_makes_the_same_bytes() -> None:
    first, first_coins = maker_and_coins(7, 10)
    second, second_coins = maker_and_coins(7, 10)
    assert first.make(first_coins, 5).raw == second.make(second_coins, 5).raw


def test_a_segwit_spend_is_about_as_large_as_a_common_payment() -> None:
    maker, coins = maker_and_coins(4, 100)
    segwit = [coin for coin in coins if coin.kind is CoinKind.P2WSH]
    made = maker.make(segwit[:1], 2, data=b"")
    # One P2WPKH input and two P2WSH outputs weigh some 660.
    assert 520 <= made.weight <= 700


def test_a_filler_meets_every_weight_in_its_bounds() -> None:
    maker, coins = maker_and_coins(5, 20)
    coin = next(each for each in coins if each.kind is CoinKind.P2WSH)
    for weight in range(sim.FILLER_WEIGHT_MIN, sim.FILLER_WEIGHT_MAX + 1):
        assert maker.make_filler(coin, weight).weight == weight


@pytest.mark.parametrize("weight", [sim.FILLER_WEIGHT_MIN - 1, sim.FILLER_WEIGHT_MAX + 1])
def test_a_filler_out_of_bounds_is_refused(weight: int) -> None:
    maker, coins = maker_and_coins(6, 20)
    coin = next(each for each in coins if each.kind is CoinKind.P2WSH)
    with pytest.raises(ValueError, match="a filler weighs"):
        maker.make_filler(coin, weight)


def test_coins_that_cannot_pay_are_refused() -> None:
    rng = random.Random(8)
    maker = TransactionMaker(rng)
    with pytest.raises(ValueError, match="cannot pay"):
        maker.make(coins_of(maker, rng, 1, 600), 2)


def test_the_hashes_written_down_for_p2sh_are_right() -> None:
    if "ripemd160" not in hashlib.algorithms_available:
        pytest.skip("this host's OpenSSL has no RIPEMD160")
    for redeem, written in sim._P2SH:
        assert hashlib.new("ripemd160", hashlib.sha256(redeem).digest()).digest() == written


@pytest.mark.parametrize(
    ("data", "head"), [(75, "4b"), (76, "4c4c"), (255, "4cff"), (256, "4d0001")]
)
def test_pushes_are_the_shortest(data: int, head: str) -> None:
    assert sim.push(bytes(data)).hex().startswith(head)
    assert len(sim.push(bytes(data))) == data + len(head) // 2


@pytest.mark.parametrize(
    ("value", "form"), [(0, "00"), (252, "fc"), (253, "fdfd00"), (0x10000, "fe00000100")]
)
def test_counts_are_in_their_shortest_form(value: int, form: str) -> None:
    assert sim.compact_size(value).hex() == form
