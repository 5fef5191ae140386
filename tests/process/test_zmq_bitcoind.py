"""The ZeroMQ feed on a real Bitcoin Core: what it tells is what the node's own messages say.

The blocks and transactions are the simulator's, handed in by RPC, so that the node validates what
it publishes. A plain ZeroMQ subscriber beside the feed is the witness.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import zmq
import zmq.asyncio
from node_sink import NodeSink

from bitcoin_sprint.chains import network
from bitcoin_sprint.config.schema import NodeConfig
from bitcoin_sprint.ingest.feed import Source, SourceKind
from bitcoin_sprint.ingest.simulator.blocks import SimBlock
from bitcoin_sprint.ingest.simulator.chain import SimChain
from bitcoin_sprint.ingest.zmq_feed import ZmqFeed
from bitcoin_sprint.ingest.zmq_topics import TOPICS

REGTEST = network("regtest")
SOURCE = Source(1, "core", SourceKind.ZMQ, trusted=True)

pytestmark = pytest.mark.timeout(300)


class Driven:
    """A bitcoind, the chain that it is given, and a feed of it."""

    def __init__(self, core: Any, **options: Any) -> None:
        self.core = core
        self.chain = SimChain(REGTEST, seed=3, coins_target=2_000, legacy_share=0.0)
        self.sink = NodeSink(REGTEST)
        node = NodeConfig(
            addresses=(core.zmq_address,), rpc_url=core.rpc_url, rpc_cookie=str(core.cookie_file)
        )
        self.feed = ZmqFeed(self.sink, SOURCE, node, options.pop("network", REGTEST), **options)
        self.sink.feeds.append(self.feed)
        self.blocks: dict[bytes, SimBlock] = {}

    async def rpc(self, method: str, *params: Any) -> Any:
        return await asyncio.to_thread(self.core.rpc, method, *params)

    async def give(self, *blocks: SimBlock) -> None:
        for block in blocks:
            self.blocks[block.hash] = block
            assert await self.rpc("submitblock", block.raw.hex()) in (None, "inconclusive")

    async def add_transactions(self, count: int) -> None:
        for each in self.chain.make_transactions(count):
            await self.rpc("sendrawtransaction", each.raw.hex(), 0)

    async def mine(self, **options: Any) -> SimBlock:
        block = self.chain.mine(int(time.time()), **options)
        await self.give(block)
        return block

    async def until(self, condition: Callable[[], object], timeout: float = 60.0) -> None:
        async with asyncio.timeout(timeout):
            while not condition():
                await asyncio.sleep(0.005)

    def state(self, name: str) -> Any:
        snapshot = self.feed.snapshot()
        return snapshot["counts"][name] if name in snapshot["counts"] else snapshot[name]

    def told_mempool(self) -> set[bytes]:
        """The mempool as who only heard our words has it: what stands in a block is out of it."""
        txids: set[bytes] = set()
        for word in self.sink.said:
            if word.what == "A" and word.hash is not None:
                txids.add(word.hash)
            elif word.what == "R" and word.hash is not None:
                txids.discard(word.hash)
        hash = self.chain.tip
        while hash in self.blocks:
            txids.difference_update(each.txid for each in self.blocks[hash].transactions)
            hash = self.blocks[hash].previous
        return txids

    async def real_mempool(self) -> set[bytes]:
        return {bytes.fromhex(each)[::-1] for each in await self.rpc("getrawmempool")}


@asynccontextmanager
async def driven(starter: Any, *, ready: bool = True, **options: Any) -> AsyncIterator[Driven]:
    node_options = options.pop("node", {})
    core = await asyncio.to_thread(starter.start, extra_args=["-persistmempool=1"], **node_options)
    driven = Driven(core, **options)
    for block in driven.chain.prepare(int(time.time()) - 600):
        await driven.give(block)
    task = asyncio.get_running_loop().create_task(driven.feed.run())
    try:
        if ready:
            await driven.until(lambda: driven.state("state") == "ready")
        yield driven
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@asynccontextmanager
async def witness(core: Any) -> AsyncIterator[list[tuple[str, bytes, int]]]:
    """Every message of the node's ``sequence``, as a plain subscriber has them."""
    heard: list[tuple[str, bytes, int]] = []
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.subscribe(b"sequence")
    monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    socket.connect(core.zmq_address)

    async def listen() -> None:
        while True:
            _, body, _ = await socket.recv_multipart()
            number = int.from_bytes(body[33:], "little")
            heard.append((chr(body[32]), body[31::-1], number))

    await monitor.recv_multipart()
    await asyncio.sleep(0.2)  # the subscription travels behind the handshake
    task = asyncio.get_running_loop().create_task(listen())
    try:
        yield heard
    finally:
        task.cancel()
        socket.disable_monitor()
        context.destroy(0)


async def test_what_is_told_is_what_the_node_says_through_blocks_and_reorgs(bitcoind: Any) -> None:
    async with driven(bitcoind) as run, witness(run.core) as heard:
        rng = random.Random(1)
        for index in range(20):
            await run.add_transactions(rng.randint(0, 30))
            await run.mine(count=rng.randint(0, 30))
            if index in (5, 10, 15):
                reorg = run.chain.reorganise(index // 5 + 1, int(time.time()))
                await run.give(*reorg.connected)
        tip = run.chain.tip[::-1].hex()
        await run.rpc("invalidateblock", tip)
        await run.rpc("reconsiderblock", tip)
        await run.until(lambda: heard and heard[-1][:2] == ("C", run.chain.tip))
        await run.until(lambda: len(run.sink.said) > len(heard))
        told = run.sink.said[1:]
        assert [(word.what, word.hash, word.number) for word in told] == heard
        assert sum(what == "D" for what, _, _ in heard) == 2 + 3 + 4 + 1
        for word in told:
            if word.what == "A":
                assert word.raw is not None
        assert run.state("gaps") == run.state("bodies_fetched") == 0
        connected = {word.hash for word in told if word.what == "C"}
        await run.until(lambda: run.sink.bodies.keys() >= connected)
        for hash, raw in run.sink.bodies.items():
            assert run.blocks[hash].raw == raw


async def test_messages_dropped_at_the_high_water_mark_are_made_up_for(bitcoind: Any) -> None:
    async with driven(bitcoind, node={"zmq_high_water_mark": 1}) as run:
        for _ in range(6):
            await run.add_transactions(60)
            await run.mine(count=400)
        # A burst for which the node has no time to send: 300 transactions come back, and go.
        reorg = run.chain.reorganise(4, int(time.time()))
        await run.give(*reorg.connected)
        await run.add_transactions(20)
        await run.mine(count=5)
        await run.until(lambda: run.state("gaps") > 0)
        await run.until(lambda: run.chain.tip in run.sink.bodies)
        # Where the very last words were dropped, nothing shows the hole before the next word.
        async with asyncio.timeout(60):
            while run.told_mempool() != await run.real_mempool():
                await run.add_transactions(1)
                await asyncio.sleep(0.1)
        assert run.state("messages_lost") > 0


async def test_a_restart_is_survived_with_its_new_cookie(bitcoind: Any) -> None:
    async with driven(bitcoind) as run:
        await run.add_transactions(5)
        await run.mine(count=2)
        await run.until(lambda: run.sink.tips[-1] == ("C", run.chain.tip))
        cookie = run.core.cookie_file.read_text()
        await asyncio.to_thread(run.core.shut_down)
        await run.until(lambda: run.sink.tips[-1] == ("down", None))
        await asyncio.to_thread(run.core.restart)
        assert run.core.cookie_file.read_text() != cookie
        await run.until(lambda: run.state("state") == "ready")
        await run.until(lambda: run.sink.tips[-1] == ("up", run.chain.tip))
        assert not [word for word in run.sink.said if word.what == "R"]
        resyncs = run.state("resyncs")
        block = await run.mine(count=10)
        await run.until(lambda: run.sink.tips[-1] == ("C", block.hash))
        await run.until(lambda: block.hash in run.sink.bodies)
        assert run.state("restarts") == len(TOPICS)
        assert run.state("resyncs") == resyncs  # what was lost was asked for on the reconnection


async def test_hashblock_alone_will_do(bitcoind: Any) -> None:
    async with driven(bitcoind, node={"zmq_topics": ("hashblock",)}) as run:
        await run.mine()
        reorg = run.chain.reorganise(3, int(time.time()))
        await run.give(*reorg.connected)
        await run.until(lambda: run.sink.bodies.keys() >= {b.hash for b in reorg.connected})
        assert run.sink.tips[-1] == ("C", run.chain.tip)


async def test_another_network_is_told(bitcoind: Any) -> None:
    async with driven(bitcoind, ready=False, network=network("testnet3")) as run:
        await run.until(lambda: run.state("state") == "wrong network")
        assert "is a node of regtest, network is 'testnet3'" in run.state("trouble")
        assert not run.sink.said


async def test_a_block_that_the_node_calls_invalid_is_refused(bitcoind: Any) -> None:
    async with driven(bitcoind, poll_seconds=0.1) as d:
        refused: list[bytes] = []
        d.sink.on_node_refused = lambda _source, hash, _reason: refused.append(hash)  # type: ignore[method-assign]
        good = await d.mine()
        bad = await d.mine()
        await d.until(lambda: bad.hash in d.sink.bodies)
        d.sink.best = bad.hash
        await d.rpc("invalidateblock", bad.hash[::-1].hex())
        await d.until(lambda: bad.hash in refused)
        assert set(refused) == {bad.hash}
        assert await d.rpc("getbestblockhash") == good.hash[::-1].hex()
