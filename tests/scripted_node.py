"""A node for tests of what reads one: ZeroMQ and RPC as Bitcoin Core has them, over a simulated
chain, with every message under the test's control.

``publish`` is the only place where messages leave; while ``drops`` is true they are numbered and
lost, as at a full high-water mark.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import zmq
from rpc_server import RpcFailure, RpcServer

from bitcoin_sprint.chains import network
from bitcoin_sprint.config.schema import NodeConfig
from bitcoin_sprint.ingest.simulator.blocks import SimBlock
from bitcoin_sprint.ingest.simulator.chain import SimChain
from bitcoin_sprint.ingest.simulator.transactions import SimTransaction
from bitcoin_sprint.ingest.zmq_topics import TOPICS

REGTEST = network("regtest")


class ScriptedNode:
    """See the module. ``async with ScriptedNode() as node``."""

    def __init__(self, *, topics: Sequence[bytes] = TOPICS, seed: int = 1) -> None:
        self.topics = tuple(topics)
        self.chain = SimChain(REGTEST, seed=seed, coins_target=1_000)
        self.blocks: dict[bytes, SimBlock] = {}
        self.chain_name = "regtest"
        self.is_syncing = False
        self.drops: set[bytes] = set()
        self.mempool: dict[bytes, SimTransaction] = {}
        self.mempool_sequence = 1
        self.rpc = RpcServer(self.answer)
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._numbers = dict.fromkeys(TOPICS, 0)
        self.address = ""
        for block in self.chain.prepare(int(time.time()) - 10):
            self.blocks[block.hash] = block

    async def __aenter__(self) -> Self:
        await self.rpc.start()
        self.bind()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.rpc.stop()
        self.unbind()
        self._context.term()

    def bind(self) -> None:
        """Publish, at the same address as before where there was one."""
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.LINGER, 0)
        # A socket of ours that was closed gives its port back a moment later.
        for _ in range(500):
            try:
                self._socket.bind(self.address or "tcp://127.0.0.1:*")
                break
            except zmq.ZMQError:
                time.sleep(0.01)
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    async def subscribed(self) -> None:
        """Wait until a subscriber's subscriptions to all topics are in force."""
        wanted = {b"\x01" + topic for topic in TOPICS}
        async with asyncio.timeout(20):
            while wanted and self._socket is not None:
                while self._socket.poll(0):
                    wanted.discard(self._socket.recv())
                await asyncio.sleep(0.001)

    def unbind(self) -> None:
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None

    def restart(self) -> None:
        """Another process: message and mempool numbers begin anew, connections break."""
        self.unbind()
        self._numbers = dict.fromkeys(TOPICS, 0)
        self.mempool_sequence = 1
        self.bind()

    def config(self, **changes: Any) -> NodeConfig:
        values = {
            "addresses": (self.address,),
            "name": "scripted",
            "rpc_url": self.rpc.url,
            "rpc_user": "user",
            "rpc_password": "password",
            **changes,
        }
        return NodeConfig(**values)

    # What happens to the node; each step is published as Core does.

    def add_transactions(self, count: int) -> list[SimTransaction]:
        made = self.chain.make_transactions(count)
        for each in made:
            self.mempool[each.txid] = each
            self._publish_transaction(each)
            self._publish_mempool(b"A", each.txid)
        return made

    def remove_transaction(self, txid: bytes) -> None:
        del self.mempool[txid]
        self._publish_mempool(b"R", txid)

    def mine(self, *, count: int | None = None) -> SimBlock:
        block = self.chain.mine(int(time.time()), count=count)
        self._connect(block)
        self._publish_tip()
        return block

    def reorganise(self, depth: int) -> list[SimBlock]:
        """The blocks connected; those disconnected leave first, and their transactions return."""
        reorg = self.chain.reorganise(depth, int(time.time()))
        for block in reorg.disconnected:
            for each in block.transactions:
                self._publish_transaction(each)
            self.publish(b"sequence", block.hash[::-1] + b"D")
        for block in reorg.connected:
            self._connect(block)
        self._publish_tip()
        return list(reorg.connected)

    def publish(self, topic: bytes, body: bytes) -> None:
        if topic not in self.topics:
            return
        number = self._numbers[topic]
        self._numbers[topic] += 1
        if topic not in self.drops and self._socket is not None:
            self._socket.send_multipart([topic, body, number.to_bytes(4, "little")])

    def _connect(self, block: SimBlock) -> None:
        self.blocks[block.hash] = block
        for each in block.transactions:
            # Core counts these removals without telling of them.
            self.mempool_sequence += self.mempool.pop(each.txid, None) is not None
        for each in (block.coinbase, *block.transactions):
            self._publish_transaction(each)
        self.publish(b"sequence", block.hash[::-1] + b"C")

    def _publish_tip(self) -> None:
        block = self.blocks[self.chain.tip]
        self.publish(b"hashblock", block.hash[::-1])
        self.publish(b"rawblock", block.raw)

    def _publish_transaction(self, transaction: SimTransaction) -> None:
        self.publish(b"hashtx", transaction.txid[::-1])
        self.publish(b"rawtx", transaction.raw)

    def _publish_mempool(self, label: bytes, txid: bytes) -> None:
        number = self.mempool_sequence
        self.mempool_sequence += 1
        self.publish(b"sequence", txid[::-1] + label + number.to_bytes(8, "little"))

    # RPC.

    def answer(self, method: str, params: Sequence[Any]) -> Any:
        handler = getattr(self, f"_rpc_{method}", None)
        if handler is None:
            raise RpcFailure(-32601, "Method not found")
        return handler(*params)

    def _rpc_getblockchaininfo(self) -> dict[str, Any]:
        return {
            "chain": self.chain_name,
            "blocks": self.chain.height,
            "bestblockhash": self.chain.tip[::-1].hex(),
            "initialblockdownload": self.is_syncing,
        }

    def _rpc_getblockhash(self, height: int) -> str:
        if height > self.chain.height:
            raise RpcFailure(-8, "Block height out of range")
        return REGTEST.block_hash(self.chain.header(height))[::-1].hex()

    def _rpc_getblockheader(self, hash: str, verbose: bool = True) -> Any:
        known = bytes.fromhex(hash)[::-1]
        height = self.chain.height_of(known)
        if known not in self.blocks and height != 0:
            raise RpcFailure(-5, "Block not found")
        if not verbose:
            return (self.chain.header(0) if height == 0 else self.blocks[known].header).hex()
        return {
            "height": self.blocks[known].height if height is None else height,
            "confirmations": -1 if height is None else self.chain.height - height + 1,
        }

    def _rpc_getblock(self, hash: str, verbosity: int) -> Any:
        block = self.blocks.get(bytes.fromhex(hash)[::-1])
        if block is None:
            raise RpcFailure(-5, "Block not found")
        if verbosity == 0:
            return block.raw.hex()
        return {"tx": [each.txid[::-1].hex() for each in (block.coinbase, *block.transactions)]}

    def _rpc_getrawmempool(self, verbose: bool, with_sequence: bool) -> dict[str, Any]:
        assert not verbose
        assert with_sequence
        return {
            "txids": [txid[::-1].hex() for txid in self.mempool],
            "mempool_sequence": self.mempool_sequence,
        }

    def _rpc_getrawtransaction(self, txid: str) -> str:
        found = self.mempool.get(bytes.fromhex(txid)[::-1])
        if found is None:
            raise RpcFailure(-5, "No such mempool transaction")
        return found.raw.hex()

    def _rpc_getzmqnotifications(self) -> list[dict[str, Any]]:
        return [
            {"type": f"pub{topic.decode()}", "address": self.address, "hwm": 1000}
            for topic in self.topics
        ]
