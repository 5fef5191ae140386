"""What we ask a Bitcoin Core node by RPC, typed: tip, headers, blocks, mempool, topics.

Hashes go in and out in internal byte order; RPC writes them reversed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from bitcoin_sprint.chains import Network
from bitcoin_sprint.errors import FeedError
from bitcoin_sprint.frames import Chain
from bitcoin_sprint.ingest.rpc import RpcClient, RpcError
from bitcoin_sprint.ingest.zmq_topics import Notifier

HEADER_BYTES: Final = 80
ANSWER_SECONDS: Final = 10.0
"""A node that does not say where it stands within this hangs: what waits for it goes on without."""

_CHAIN_NAMES = {"testnet3": "test"}


class WrongNetwork(FeedError):
    """The node is of another network than we are."""


class ChainInfo(msgspec.Struct, frozen=True):
    """Where the node stands. ``is_syncing``: it is in its initial block download."""

    best: bytes
    height: int
    is_syncing: bool


class MempoolSnapshot(msgspec.Struct, frozen=True):
    """The node's mempool. Changes numbered below ``sequence`` are in it, the others are not."""

    txids: Sequence[bytes]
    sequence: int


def shown(hash: bytes) -> str:
    """A hash as RPC writes it."""
    return hash[::-1].hex()


class NodeRpc:
    """Calls to one node of ``network``. Every method raises as ``RpcClient.call`` does."""

    def __init__(self, client: RpcClient, network: Network) -> None:
        self.client = client
        self._network = network
        self._is_checked = False

    async def chain_info(self) -> ChainInfo:
        """The node's tip. Raises WrongNetwork where its chain is another one."""
        info = await self.client.call("getblockchaininfo", timeout_seconds=ANSWER_SECONDS)
        wanted = self._network.name
        if self._network.chain is Chain.BITCOIN:
            wanted = _CHAIN_NAMES.get(wanted, wanted)
            if info["chain"] != wanted:
                raise self._wrong(info["chain"])
        if not self._is_checked:
            genesis = await self.client.call("getblockhash", 0)
            if genesis != shown(self._network.genesis_hash):
                raise self._wrong(f"{info['chain']} with the genesis block {genesis}")
            self._is_checked = True
        return ChainInfo(
            _hash(info["bestblockhash"]), int(info["blocks"]), bool(info["initialblockdownload"])
        )

    async def header(self, hash: bytes) -> bytes:
        """A block's header, 80 bytes."""
        return _bytes(await self.client.call("getblockheader", shown(hash), False))

    async def height_in_best_chain(self, hash: bytes) -> int | None:
        """The block's height; None where the node does not have it in its best chain."""
        try:
            found = await self.client.call("getblockheader", shown(hash), True)
        except RpcError as error:
            if error.code == RpcError.NOT_FOUND:
                return None
            raise
        return int(found["height"]) if found["confirmations"] >= 0 else None

    async def invalid_tips(self) -> list[bytes]:
        """The last blocks of the branches that the node found invalid. Costly for the node."""
        found = await self.client.call("getchaintips")
        return [_hash(each["hash"]) for each in found if each["status"] == "invalid"]

    async def hashes(self, start: int, count: int) -> list[bytes]:
        """Hashes of the best chain from height ``start``, fewer where it ends before."""
        heights = [[height] for height in range(start, start + count)]
        answers = await self.client.batch("getblockhash", heights)
        return [_hash(each) for each in answers if isinstance(each, str)]

    async def headers(self, start: int, count: int) -> list[bytes]:
        """Headers of the best chain from height ``start``, fewer where it ends before."""
        hashes = await self.hashes(start, count)
        arguments = [[shown(hash), False] for hash in hashes]
        answers = await self.client.batch("getblockheader", arguments)
        return [_bytes(each) for each in answers if isinstance(each, str)]

    async def block(self, hash: bytes) -> bytes:
        """A block in its network form."""
        return _bytes(await self.client.call("getblock", shown(hash), 0))

    async def block_txids(self, hash: bytes) -> list[bytes]:
        """The txids of a block's transactions."""
        found = await self.client.call("getblock", shown(hash), 1)
        return [_hash(each) for each in found["tx"]]

    async def mempool(self) -> MempoolSnapshot:
        """All txids of the mempool, and where in the order of its changes that was."""
        found = await self.client.call("getrawmempool", False, True)
        return MempoolSnapshot([_hash(each) for each in found["txids"]], found["mempool_sequence"])

    async def transactions(self, txids: Sequence[bytes]) -> list[bytes | None]:
        """Raw transactions of the mempool; None for one that is there no more."""
        arguments = [[shown(txid)] for txid in txids]
        answers = await self.client.batch("getrawtransaction", arguments)
        return [_bytes(each) if isinstance(each, str) else None for each in answers]

    async def notifiers(self) -> frozenset[Notifier] | None:
        """What the node publishes by ZeroMQ, and where; None where it can't say."""
        try:
            found = await self.client.call("getzmqnotifications")
        except RpcError:
            return None
        return frozenset(
            Notifier(each["type"].removeprefix("pub").encode(), each["address"]) for each in found
        )

    def _wrong(self, found: str) -> WrongNetwork:
        return WrongNetwork(
            f"{self.client.address} is a node of {found}, network is {self._network.name!r}"
        )


def _hash(text: Any) -> bytes:
    raw = _bytes(text)
    if len(raw) != 32:
        raise FeedError(f"a hash of {len(raw)} bytes by RPC")
    return raw[::-1]


def _bytes(text: Any) -> bytes:
    try:
        return bytes.fromhex(text)
    except (TypeError, ValueError):
        raise FeedError(f"no hex by RPC: {str(text)[:40]!r}") from None
