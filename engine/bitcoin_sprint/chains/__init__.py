"""The chains that Bitcoin Sprint knows: ``network(name)`` gives one network's rules."""

from __future__ import annotations

from typing import Final

from bitcoin_sprint.chains.bitcoin import MAIN, REGTEST, SIGNET, TESTNET3, TESTNET4
from bitcoin_sprint.chains.litecoin import LITECOIN_MAIN, LITECOIN_REGTEST, LITECOIN_TESTNET4
from bitcoin_sprint.chains.network import Checkpoint, Network, ProofOfWork, Retarget
from bitcoin_sprint.errors import ConfigError

__all__ = ["NETWORKS", "Checkpoint", "Network", "ProofOfWork", "Retarget", "network"]

NETWORKS: Final[dict[str, Network]] = {
    each.name: each
    for each in (
        MAIN,
        TESTNET3,
        TESTNET4,
        SIGNET,
        REGTEST,
        LITECOIN_MAIN,
        LITECOIN_TESTNET4,
        LITECOIN_REGTEST,
    )
}


def network(name: str, *, signet_challenge: bytes | None = None) -> Network:
    """The network called ``name``.

    Raises ConfigError for an unknown name, and for a signet with a challenge other than the default
    network's: its blocks' solutions (BIP325) could not be checked, so it is not followed at all.
    """
    found = NETWORKS.get(name)
    if found is None:
        raise ConfigError(f"network: {name!r} is not known; choose one of {', '.join(NETWORKS)}")
    if signet_challenge is not None and signet_challenge != found.signet_challenge:
        raise ConfigError(
            f"network: {name} with the challenge {signet_challenge.hex()} is refused; only the "
            "default signet's block signatures can be checked"
        )
    return found
