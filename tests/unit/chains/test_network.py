"""Every network's table holds together: its genesis block names, proves and limits itself."""

from __future__ import annotations

import hashlib

import pytest

from bitcoin_sprint.chains import NETWORKS, Network, ProofOfWork, network
from bitcoin_sprint.errors import ConfigError

ALL = pytest.mark.parametrize("net", NETWORKS.values(), ids=list(NETWORKS))


@ALL
def test_the_genesis_header_hashes_to_the_genesis_hash(net: Network) -> None:
    assert len(net.genesis) == 80
    assert net.block_hash(net.genesis) == net.genesis_hash


@ALL
def test_the_genesis_block_has_proof_of_work(net: Network) -> None:
    assert int.from_bytes(net.pow_hash(net.genesis), "little") <= net.pow_limit


@ALL
def test_a_network_is_found_by_its_name_and_nobody_can_change_it(net: Network) -> None:
    assert network(net.name) is net
    with pytest.raises(AttributeError):
        net.magic = b"evil"  # type: ignore[misc]


def test_an_unknown_network_is_a_configuration_error_that_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"'mainnet'.*main, testnet3"):
        network("mainnet")


def test_only_the_default_signet_is_followed() -> None:
    signet = network("signet")
    assert signet.signet_challenge is not None
    assert network("signet", signet_challenge=signet.signet_challenge) is signet
    with pytest.raises(ConfigError, match="51"):
        network("signet", signet_challenge=b"\x51")
    with pytest.raises(ConfigError):
        network("main", signet_challenge=b"\x51")


def test_signets_magic_comes_from_its_challenge() -> None:
    signet = network("signet")
    challenge = signet.signet_challenge
    assert challenge is not None
    data = bytes([len(challenge)]) + challenge
    assert hashlib.sha256(hashlib.sha256(data).digest()).digest()[:4] == signet.magic


def test_litecoin_hashes_work_with_scrypt_and_names_with_sha256() -> None:
    main = network("litecoin-main")
    assert main.proof_of_work is ProofOfWork.SCRYPT
    assert main.pow_hash(main.genesis) != main.block_hash(main.genesis)


def test_magics_and_ports_are_told_apart_within_a_chain() -> None:
    for field in ("magic", "default_port"):
        for chain in {net.chain for net in NETWORKS.values()}:
            values = [getattr(net, field) for net in NETWORKS.values() if net.chain == chain]
            assert len(set(values)) == len(values)
