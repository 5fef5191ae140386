"""A regtest node of our own: mines valid blocks, and serves them over Bitcoin's P2P on loopback."""
