"""Litecoin's networks: scrypt proof of work, a quarter of Bitcoin's spacing, extension blocks."""

from __future__ import annotations

from typing import Final

from bitcoin_sprint.chains.genesis import displayed, genesis_header
from bitcoin_sprint.chains.network import Network, ProofOfWork, Retarget
from bitcoin_sprint.frames import Chain

_TIMESPAN_SECONDS: Final = 7 * 12 * 60 * 60
_SPACING_SECONDS: Final = 150
_MONEY_MAX: Final = 84_000_000 * 100_000_000
_MERKLE_ROOT: Final = "97ddfbbae6be97fd6cdf3e7ca13232a3afff2353e29badfab7f73011edd4ced9"
_LIMIT: Final = (1 << 236) - 1

LITECOIN_MAIN: Final = Network(
    name="litecoin-main",
    chain=Chain.LITECOIN,
    magic=bytes.fromhex("fbc0b6db"),
    default_port=9333,
    dns_seeds=(
        "seed-a.litecoin.loshan.co.uk",
        "dnsseed.thrasher.io",
        "dnsseed.litecointools.com",
        "dnsseed.litecoinpool.org",
    ),
    genesis=genesis_header(
        merkle_root=_MERKLE_ROOT, time=1317972665, bits=0x1E0FFFF0, nonce=2084524493
    ),
    genesis_hash=displayed("12a765e31ffd4059bada1e25190f6e98c99d9714d334efa41a195a7e7e04bfe2"),
    pow_limit=_LIMIT,
    proof_of_work=ProofOfWork.SCRYPT,
    retarget=Retarget(
        timespan_seconds=_TIMESPAN_SECONDS,
        spacing_seconds=_SPACING_SECONDS,
        spans_whole_period=True,
    ),
    bip34_height=710_000,
    bip66_height=811_879,
    bip65_height=918_684,
    segwit_height=1_201_536,
    money_max=_MONEY_MAX,
    has_extension_block=True,
)

LITECOIN_TESTNET4: Final = Network(
    name="litecoin-testnet4",
    chain=Chain.LITECOIN,
    magic=bytes.fromhex("fdd2c8f1"),
    default_port=19335,
    dns_seeds=("testnet-seed.litecointools.com", "seed-b.litecoin.loshan.co.uk"),
    genesis=genesis_header(
        merkle_root=_MERKLE_ROOT, time=1486949366, bits=0x1E0FFFF0, nonce=293345
    ),
    genesis_hash=displayed("4966625a4b2851d9fdee139e56211a0d88575f59ed816ff5e6a63deb4e3e29a0"),
    pow_limit=_LIMIT,
    proof_of_work=ProofOfWork.SCRYPT,
    retarget=Retarget(
        timespan_seconds=_TIMESPAN_SECONDS,
        spacing_seconds=_SPACING_SECONDS,
        spans_whole_period=True,
        allows_minimum_difficulty=True,
    ),
    bip34_height=76,
    bip66_height=76,
    bip65_height=76,
    segwit_height=6_048,
    money_max=_MONEY_MAX,
    has_extension_block=True,
)

LITECOIN_REGTEST: Final = Network(
    name="litecoin-regtest",
    chain=Chain.LITECOIN,
    magic=bytes.fromhex("fabfb5da"),
    default_port=19444,
    genesis=genesis_header(merkle_root=_MERKLE_ROOT, time=1296688602, bits=0x207FFFFF, nonce=0),
    genesis_hash=displayed("530827f38f93b43ed12af0b3ad25a288dc02ed74d6d7857862df51fc56c416f9"),
    pow_limit=(1 << 255) - 1,
    proof_of_work=ProofOfWork.SCRYPT,
    retarget=Retarget(
        timespan_seconds=_TIMESPAN_SECONDS,
        spacing_seconds=_SPACING_SECONDS,
        spans_whole_period=True,
        retargets=False,
        allows_minimum_difficulty=True,
    ),
    bip34_height=500,
    bip66_height=1_251,
    bip65_height=1_351,
    segwit_height=0,
    money_max=_MONEY_MAX,
    has_extension_block=True,
)
