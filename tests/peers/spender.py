"""Transactions for a node on regtest that has no wallet.

Everything goes to and comes from one output script, pay to the witness script ``OP_TRUE``: its
spends are standard segwit transactions and need no signature.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from typing import NamedTuple, Protocol

_WITNESS_SCRIPT = b"\x51"
OUTPUT_SCRIPT = b"\x00\x20" + hashlib.sha256(_WITNESS_SCRIPT).digest()
DESCRIPTOR = f"raw({OUTPUT_SCRIPT.hex()})"
_COINBASE_MATURITY = 100
_FEE = 10_000


class Coin(NamedTuple):
    """An unspent output of ours; ``txid`` in internal byte order, ``amount`` in satoshi."""

    txid: bytes
    output: int
    amount: int


class _Node(Protocol):
    def rpc(self, method: str, *params: object) -> object: ...


class Spender:
    """Mines coins on one node and spends them, oldest first."""

    def __init__(self, node: _Node) -> None:
        self._node = node
        self.coins: deque[Coin] = deque()

    def mine_coins(self, count: int = 1) -> None:
        """Mines until ``count`` new coins are mature: ``count`` + 100 blocks."""
        hashes = self._node.rpc("generatetodescriptor", count, DESCRIPTOR)
        assert isinstance(hashes, list)
        for block_hash in hashes:
            block = self._node.rpc("getblock", block_hash, 2)
            assert isinstance(block, dict)
            coinbase = block["tx"][0]
            amount = round(coinbase["vout"][0]["value"] * 100_000_000)
            self.coins.append(Coin(bytes.fromhex(coinbase["txid"])[::-1], 0, amount))
        self._node.rpc("generatetodescriptor", _COINBASE_MATURITY, DESCRIPTOR)

    def build(self, outputs: int = 1, *, data: bytes = b"", fee: int = _FEE) -> bytes:
        """A raw transaction that spends the oldest coin into ``outputs`` equal ones.

        The outputs become coins at once, so that the next may spend them unconfirmed. ``data``
        adds an OP_RETURN output of at most 75 bytes; ``fee`` in satoshi, differing fees make
        conflicting spends of the same coin differ (put ``coins[0]`` back before the second).
        """
        coin = self.coins.popleft()
        share = (coin.amount - fee) // outputs
        assert share > 0, "the coin is spent up"
        body = _output(share, OUTPUT_SCRIPT) * outputs
        if data:
            body += _output(0, b"\x6a" + bytes([len(data)]) + data)
        body = bytes([outputs + bool(data)]) + body
        version, lock_time = struct.pack("<I", 2), bytes(4)
        outpoint = coin.txid + struct.pack("<I", coin.output)
        spend = b"\x01" + outpoint + b"\x00" + struct.pack("<I", 0xFFFFFFFD)
        witness = b"\x01\x01" + _WITNESS_SCRIPT
        stripped = version + spend + body + lock_time
        txid = hashlib.sha256(hashlib.sha256(stripped).digest()).digest()
        self.coins.extend(Coin(txid, index, share) for index in range(outputs))
        return version + b"\x00\x01" + spend + body + witness + lock_time

    def send(self, outputs: int = 1, *, data: bytes = b"", fee: int = _FEE) -> str:
        """Builds a transaction and hands it to the node; returns its txid as RPC prints it."""
        txid = self._node.rpc("sendrawtransaction", self.build(outputs, data=data, fee=fee).hex())
        assert isinstance(txid, str)
        return txid


def _output(amount: int, script: bytes) -> bytes:
    return struct.pack("<q", amount) + bytes([len(script)]) + script
