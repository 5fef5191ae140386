"""Bitcoin's networks."""

from __future__ import annotations

from typing import Final

from bitcoin_sprint.chains.genesis import displayed, genesis_header
from bitcoin_sprint.chains.network import Network, Retarget
from bitcoin_sprint.frames import Chain

_LIMIT_DIFFICULTY_1: Final = 0xFFFF_FFFF << 192 | (1 << 192) - 1
_MERKLE_ROOT: Final = "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"

MAIN: Final = Network(
    name="main",
    chain=Chain.BITCOIN,
    magic=bytes.fromhex("f9beb4d9"),
    default_port=8333,
    dns_seeds=(
        "seed.bitcoin.sipa.be",
        "dnsseed.bluematt.me",
        "seed.bitcoin.jonasschnelli.ch",
        "seed.btc.petertodd.net",
        "seed.bitcoin.sprovoost.nl",
        "dnsseed.emzy.de",
        "seed.bitcoin.wiz.biz",
        "seed.mainnet.achownodes.xyz",
    ),
    genesis=genesis_header(
        merkle_root=_MERKLE_ROOT, time=1231006505, bits=0x1D00FFFF, nonce=2083236893
    ),
    genesis_hash=displayed("000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"),
    pow_limit=_LIMIT_DIFFICULTY_1,
    retarget=Retarget(),
    bip34_height=227_931,
    bip66_height=363_725,
    bip65_height=388_381,
    segwit_height=481_824,
)

TESTNET3: Final = Network(
    name="testnet3",
    chain=Chain.BITCOIN,
    magic=bytes.fromhex("0b110907"),
    default_port=18333,
    dns_seeds=(
        "testnet-seed.bitcoin.jonasschnelli.ch",
        "seed.tbtc.petertodd.net",
        "seed.testnet.bitcoin.sprovoost.nl",
        "testnet-seed.bluematt.me",
        "seed.testnet.achownodes.xyz",
    ),
    genesis=genesis_header(
        merkle_root=_MERKLE_ROOT, time=1296688602, bits=0x1D00FFFF, nonce=414098458
    ),
    genesis_hash=displayed("000000000933ea01ad0ee984209779baaec3ced90fa3f408719526f8d77f4943"),
    pow_limit=_LIMIT_DIFFICULTY_1,
    retarget=Retarget(allows_minimum_difficulty=True),
    bip34_height=21_111,
    bip66_height=330_776,
    bip65_height=581_885,
    segwit_height=834_624,
)

TESTNET4: Final = Network(
    name="testnet4",
    chain=Chain.BITCOIN,
    magic=bytes.fromhex("1c163f28"),
    default_port=48333,
    dns_seeds=("seed.testnet4.bitcoin.sprovoost.nl", "seed.testnet4.wiz.biz"),
    genesis=genesis_header(
        merkle_root="7aa0a7ae1e223414cb807e40cd57e667b718e42aaf9306db9102fe28912b7b4e",
        time=1714777860,
        bits=0x1D00FFFF,
        nonce=393743547,
    ),
    genesis_hash=displayed("00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043"),
    pow_limit=_LIMIT_DIFFICULTY_1,
    retarget=Retarget(
        allows_minimum_difficulty=True, keeps_real_difficulty=True, timewarp_seconds_max=600
    ),
    bip34_height=1,
    bip66_height=1,
    bip65_height=1,
    segwit_height=1,
)

SIGNET: Final = Network(
    name="signet",
    chain=Chain.BITCOIN,
    magic=bytes.fromhex("0a03cf40"),
    default_port=38333,
    dns_seeds=("seed.signet.bitcoin.sprovoost.nl", "seed.signet.achownodes.xyz"),
    genesis=genesis_header(
        merkle_root=_MERKLE_ROOT, time=1598918400, bits=0x1E0377AE, nonce=52613770
    ),
    genesis_hash=displayed("00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6"),
    pow_limit=0x377AE << 216,
    retarget=Retarget(),
    bip34_height=1,
    bip66_height=1,
    bip65_height=1,
    segwit_height=1,
    # BIP325's default network: one of two keys signs each block.
    signet_challenge=bytes.fromhex(
        "5121"
        "03ad5e0edad18cb1f0fc0d28a3d4f1f3e445640337489abb10404f2d1e086be430"
        "210359ef5021964fe22d6f8e05b2463c9540ce96883fe3b278760f048f5189f2e6c4"
        "52ae"
    ),
)

REGTEST: Final = Network(
    name="regtest",
    chain=Chain.BITCOIN,
    magic=bytes.fromhex("fabfb5da"),
    default_port=18444,
    genesis=genesis_header(merkle_root=_MERKLE_ROOT, time=1296688602, bits=0x207FFFFF, nonce=2),
    genesis_hash=displayed("0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"),
    pow_limit=(1 << 255) - 1,
    retarget=Retarget(
        timespan_seconds=24 * 60 * 60, retargets=False, allows_minimum_difficulty=True
    ),
    bip34_height=1,
    bip66_height=1,
    bip65_height=1,
    segwit_height=0,
)
