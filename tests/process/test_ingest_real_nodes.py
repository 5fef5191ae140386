"""Ingest between two real bitcoinds: one trusted, heard by ZeroMQ and RPC, one spoken to by P2P."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zmq
import zmq.asyncio
from ingest_engine import Engine, running
from intake_rig import Seen, replay_tips, seen_frame
from peers import Bitcoind, Spender
from peers.fixtures import NodeStarter

from bitcoin_sprint.frames import Kind, Level, Mempool, Tip
from bitcoin_sprint.ring import Reader, Ring

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

PATIENCE_S = 60.0


class Word(NamedTuple):
    """One thing that the node's ``sequence`` topic says, hash as it is displayed."""

    label: str
    hash: str
    mempool_sequence: int


class Listener:
    """A plain subscriber of the node's own ``sequence`` topic."""

    def __init__(self, context: zmq.asyncio.Context, address: str) -> None:
        self._socket = context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"sequence")
        self._socket.connect(address)
        self.words: list[Word] = []

    async def run(self) -> None:
        while True:
            _, body, _ = await self._socket.recv_multipart()
            number = struct.unpack("<Q", body[33:])[0] if len(body) == 41 else 0
            self.words.append(Word(chr(body[32]), body[:32].hex(), number))

    def close(self) -> None:
        self._socket.close(0)


class Rings:
    """Both rings, read as one in the order of publication."""

    def __init__(self, run: Engine) -> None:
        self._rings = [Ring.attach(run.instance, name) for name in ("blocks", "tx")]
        self._readers: list[Reader] = [ring.reader(start="newest") for ring in self._rings]
        self._frames: list[tuple[int, Seen]] = []

    def frames(self) -> list[Seen]:
        for reader in self._readers:
            while (frame := reader.poll()) is not None:
                self._frames.append((frame.stamp_ns, seen_frame(frame)))
        self._frames.sort(key=lambda stamped: stamped[0])
        return [frame for _, frame in self._frames]

    def words(self, first: Word) -> list[Word]:
        """What a node would have said on ``sequence`` from ``first`` on, out of our frames."""
        words = []
        for frame in self.frames():
            shown = frame.hash[::-1].hex()
            if isinstance(frame.payload, Tip) and frame.level is Level.CONNECTED:
                words.append(Word(chr(frame.payload.action), shown, 0))
            elif isinstance(frame.payload, Mempool):
                change = frame.payload
                words.append(Word(chr(change.action), shown, change.mempool_sequence))
        return words[words.index(first) :] if first in words else []

    @property
    def frames_lost(self) -> int:
        return sum(reader.frames_lost for reader in self._readers)

    def close(self) -> None:
        for closing in (*self._readers, *self._rings):
            closing.close()


@contextmanager
def rings_of(run: Engine) -> Iterator[Rings]:
    rings = Rings(run)
    try:
        yield rings
    finally:
        rings.close()


@asynccontextmanager
async def listening(node: Bitcoind) -> AsyncIterator[Listener]:
    context = zmq.asyncio.Context()
    listener = Listener(context, node.zmq_address)
    task = asyncio.create_task(listener.run())
    try:
        yield listener
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        listener.close()
        context.term()


async def call(node: Bitcoind, method: str, *params: Any) -> Any:
    return await asyncio.to_thread(node.rpc, method, *params)


def zmq_node(node: Bitcoind, name: str = "node-a") -> dict[str, object]:
    return {
        "name": name,
        "addresses": [node.zmq_address],
        "rpc_url": node.rpc_url,
        "rpc_cookie": str(node.cookie_file),
    }


async def until_same(listener: Listener, rings: Rings) -> None:
    """Wait until our words, from the listener's first on, are the node's; else say where not."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while rings.words(listener.words[0]) != listener.words:
                await asyncio.sleep(0.05)
    except TimeoutError:
        assert rings.words(listener.words[0]) == listener.words


async def make_history(node: Bitcoind, spender: Spender, depth: int) -> None:
    """Blocks with transactions, and a reorganisation of ``depth``."""
    for _ in range(depth + 1):
        for _ in range(3):
            await asyncio.to_thread(spender.send, 2)
        await asyncio.to_thread(node.mine)
    height = await call(node, "getblockcount")
    victim = await call(node, "getblockhash", height - depth + 1)
    await call(node, "invalidateblock", victim)
    # Another transaction: else the node would make the very block that it was told to refuse.
    await asyncio.to_thread(spender.send, 2)
    await asyncio.to_thread(node.mine, depth + 1)
    await asyncio.to_thread(spender.send, 2)


async def test_a_trusted_nodes_words_come_out_in_its_own_order(
    bitcoind: NodeStarter[Bitcoind], tmp_path: Path
) -> None:
    node = await asyncio.to_thread(bitcoind.start)
    connect = [f"-connect={node.p2p_address}"]
    peer = await asyncio.to_thread(lambda: bitcoind.start(connect, zmq_topics=()))
    spender = Spender(node)
    await asyncio.to_thread(spender.mine_coins, 5)
    sources = {"ingest.zmq": [zmq_node(node)], "ingest.p2p": [peer.p2p_address]}
    async with running(tmp_path, **sources) as run:
        height = await call(node, "getblockcount")
        start = bytes.fromhex(await call(node, "getbestblockhash"))[::-1]
        await run.until(
            lambda counters: (
                counters.get("source.node-a.up")
                and counters.get(f"source.p2p {peer.p2p_address}.up")
                and counters["tip_height"] == height
                and counters["connected_height"] == height
            )
        )
        with rings_of(run) as rings:
            async with listening(node) as listener:
                # A subscriber hears nothing of what is said before its subscription has arrived.
                while not listener.words:
                    await asyncio.to_thread(node.mine)
                    await asyncio.sleep(0.1)
                for depth in (1, 3, 6):
                    await make_history(node, spender, depth)
                    await until_same(listener, rings)
            frames = rings.frames()
            assert rings.frames_lost == 0
        best = bytes.fromhex(await call(node, "getbestblockhash"))[::-1]
        assert replay_tips(start, frames, Level.CONNECTED) == best
        bodies = {f.sequence: f.hash for f in frames if f.kind is Kind.BLOCK}
        for frame in frames:
            if isinstance(frame.payload, Tip) and frame.level is Level.CONNECTED:
                assert bodies[frame.payload.block_sequence] == frame.hash
        counters = run.counters()
        assert counters["node_words_dropped"] == 0
        assert counters["node_bodies_unseen"] == 0
        assert counters["blocks_refused"] == 0


async def test_a_node_that_goes_and_comes_back_behind_leaves_no_break(
    bitcoind: NodeStarter[Bitcoind], tmp_path: Path
) -> None:
    peer = await asyncio.to_thread(lambda: bitcoind.start(zmq_topics=()))
    connect = [f"-connect={peer.p2p_address}"]
    node = await asyncio.to_thread(lambda: bitcoind.start(connect))
    await asyncio.to_thread(peer.mine, 10)
    sources = {"ingest.zmq": [zmq_node(node)], "ingest.p2p": [peer.p2p_address]}
    async with running(tmp_path, **sources) as run:
        await run.until(lambda counters: counters["connected_height"] == 10)
        start = bytes.fromhex(await call(node, "getbestblockhash"))[::-1]
        with rings_of(run) as rings:
            await asyncio.to_thread(peer.mine, 3)
            await run.until(lambda counters: counters["connected_height"] == 13)
            await asyncio.to_thread(node.kill)
            await run.until(lambda counters: counters["source.node-a.up"] == 0)
            await asyncio.to_thread(peer.mine, 4)
            await run.until(lambda counters: counters["tip_height"] == 17)
            assert run.counters()["connected_height"] == 13
            await asyncio.to_thread(node.restart)
            await run.until(lambda counters: counters["connected_height"] == 17)
            frames = rings.frames()
        best = bytes.fromhex(await call(peer, "getbestblockhash"))[::-1]
        assert replay_tips(start, frames, Level.CONNECTED) == best
        assert replay_tips(start, frames, Level.MERKLE) == best


async def test_the_second_node_has_the_word_while_the_first_is_down(
    bitcoind: NodeStarter[Bitcoind], tmp_path: Path
) -> None:
    second = await asyncio.to_thread(bitcoind.start)
    connect = [f"-connect={second.p2p_address}"]
    first = await asyncio.to_thread(lambda: bitcoind.start(connect))
    await asyncio.to_thread(second.mine, 5)
    nodes = [zmq_node(first), zmq_node(second, "node-b")]
    async with running(tmp_path, **{"ingest.zmq": nodes}) as run:
        await run.until(lambda counters: counters["connected_height"] == 5)
        start = bytes.fromhex(await call(first, "getbestblockhash"))[::-1]
        with rings_of(run) as rings:
            await asyncio.to_thread(second.mine)
            await run.until(lambda counters: counters["connected_height"] == 6)
            await asyncio.to_thread(first.kill)
            await asyncio.to_thread(second.mine, 2)
            await run.until(lambda counters: counters["connected_height"] == 8)
            await asyncio.to_thread(first.restart)
            await run.until(lambda counters: counters["source.node-a.up"])
            await asyncio.to_thread(second.mine)
            await run.until(lambda counters: counters["connected_height"] == 9)
            frames = rings.frames()
        best = bytes.fromhex(await call(second, "getbestblockhash"))[::-1]
        assert replay_tips(start, frames, Level.CONNECTED) == best
        told = {f.height: f.source for f in frames if f.level is Level.CONNECTED and f.height > 0}
        assert (told[6], told[8]) == (1, 2)
