"""The next target follows each network's own rule."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from bitcoin_sprint.chains import network
from bitcoin_sprint.validate.difficulty import required_bits
from bitcoin_sprint.validate.target import decode_bits, encode_bits

EASIEST = 0x1D00FFFF
HARD = 0x1B0404CB


@dataclass
class Chain:
    """Times and bits of a whole chain from height 0."""

    times: list[int]
    all_bits: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.all_bits = self.all_bits or [HARD] * len(self.times)

    @property
    def height(self) -> int:
        return len(self.times) - 1

    @property
    def time(self) -> int:
        return self.times[-1]

    @property
    def bits(self) -> int:
        return self.all_bits[-1]

    def time_at(self, height: int) -> int:
        assert height >= 0
        return self.times[height]

    def bits_at(self, height: int) -> int:
        assert height >= 0
        return self.all_bits[height]

    def last_real_bits(self, interval: int, limit_bits: int) -> int:
        for height in range(self.height, -1, -1):
            if self.all_bits[height] != limit_bits or height % interval == 0:
                return self.all_bits[height]
        return self.all_bits[0]


def steady(blocks: int, seconds: int) -> list[int]:
    return [1_300_000_000 + seconds * i for i in range(blocks)]


def target(bits: int) -> int:
    found = decode_bits(bits)
    assert found is not None
    return found


# First block's time, last block's time, bits, and next bits of real and edge retargets, as they
# stand in the unit tests of Bitcoin's own implementation (pow_tests).
@pytest.mark.parametrize(
    ("first", "last", "bits", "expected"),
    [
        (1261130161, 1262152739, 0x1D00FFFF, 0x1D00D86A),
        (1231006505, 1233061996, 0x1D00FFFF, 0x1D00FFFF),
        (1279008237, 1279297671, 0x1C05A3F4, 0x1C0168FD),
        (1263163443, 1269211443, 0x1C387F6F, 0x1D00E1FD),
    ],
    ids=["height 32256", "at the limit", "a quarter at most", "fourfold at most"],
)
def test_mainnet_retargets_as_it_did(first: int, last: int, bits: int, expected: int) -> None:
    times = [first] * 2015 + [last]
    assert required_bits(Chain(times, [bits] * 2016), network("main"), last + 600) == expected


def test_between_retargets_mainnet_keeps_its_target() -> None:
    for blocks in (1, 2, 2015, 2017):
        chain = Chain(steady(blocks, 600))
        assert required_bits(chain, network("main"), chain.time + 10**6) == HARD


def test_test_networks_allow_the_least_difficulty_after_twenty_minutes() -> None:
    chain = Chain(steady(100, 600))
    for name in ("testnet3", "testnet4"):
        assert required_bits(chain, network(name), chain.time + 1200) == HARD
        assert required_bits(chain, network(name), chain.time + 1201) == EASIEST


def test_after_minimum_blocks_test_networks_return_to_the_last_real_target() -> None:
    chain = Chain(steady(100, 600), [HARD] * 90 + [EASIEST] * 10)
    assert required_bits(chain, network("testnet3"), chain.time + 600) == HARD
    whole_period = Chain(steady(2020, 600), [HARD] * 2016 + [EASIEST] * 4)
    assert required_bits(whole_period, network("testnet3"), whole_period.time + 600) == EASIEST


def test_testnet3_retargets_from_a_minimum_block_and_testnet4_does_not() -> None:
    """BIP94: a period's first block keeps the real difficulty."""
    chain = Chain(steady(2016, 300), [HARD] * 2015 + [EASIEST])
    spoiled = target(required_bits(chain, network("testnet3"), chain.time))
    kept = target(required_bits(chain, network("testnet4"), chain.time))
    assert spoiled > target(EASIEST) // 3
    assert target(HARD) // 3 < kept < target(HARD)


def test_regtest_never_moves() -> None:
    regtest = network("regtest")
    limit = encode_bits(regtest.pow_limit)
    chain = Chain(steady(144, 1), [limit] * 144)
    assert required_bits(chain, regtest, chain.time) == limit
    assert required_bits(chain, regtest, chain.time + 10**6) == limit


def test_litecoin_measures_a_whole_period_but_for_the_first() -> None:
    litecoin = network("litecoin-main")
    bits = 0x1C0FFFF0
    first = Chain(steady(2016, 150), [bits] * 2016)
    second = Chain([0, *steady(4031, 150)], [bits] * 4032)
    assert required_bits(second, litecoin, second.time) == bits  # exactly 2016 spacings
    taken = 2015 * 150  # one spacing short, as Bitcoin always measures
    expected = encode_bits(target(bits) * taken // (2016 * 150))
    assert required_bits(first, litecoin, first.time) == expected


def test_litecoin_loses_a_bit_where_the_product_would_overflow() -> None:
    litecoin = network("litecoin-main")
    bits = 0x1E0FFFF1
    second = Chain([0, *steady(4031, 75)], [bits] * 4032)
    expected = encode_bits((target(bits) >> 1) * (2016 * 75) // (2016 * 150) << 1)
    assert required_bits(second, litecoin, second.time) == expected
