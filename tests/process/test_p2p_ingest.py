"""The whole ingest process fed by P2P alone: real nodes of three kinds, and peers that lie."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from ingest_engine import Engine, follow, running
from peers import Bcoin, Bitcoind, Litecoind, Spender
from peers.fixtures import NodeStarter
from peers.nodes import Node
from regtest_blocks import chain_of
from scripted_peer import Conversation, ScriptedPeer

from bitcoin_sprint.chains import network
from bitcoin_sprint.frames import BLOCK_FOOTER, Kind, Level
from bitcoin_sprint.ingest import p2p_messages as p2p
from bitcoin_sprint.ring import Reader, Ring

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])


def internal(hash: str) -> bytes:
    return bytes.fromhex(hash)[::-1]


async def bodies(reader: Reader, until: bytes) -> dict[bytes, bytes]:
    """Raw blocks by hash as they come, up to and with ``until``."""
    found: dict[bytes, bytes] = {}
    async with asyncio.timeout(30):
        while until not in found:
            frame = await reader.next()
            if frame.kind == Kind.BLOCK:
                payload = frame.copy()
                assert payload is not None
                length = BLOCK_FOOTER.unpack_from(payload, len(payload) - BLOCK_FOOTER.size)[0]
                found[bytes(frame.hash)] = payload[:length]
    return found


async def check_live(node: Node, ring: Ring, count: int) -> None:
    """Blocks mined one after the other come whole, in order, and byte for byte the node's."""
    with_bodies, with_tips = ring.reader(start="oldest"), ring.reader(start="oldest")
    start = await asyncio.to_thread(node.rpc, "getblockcount")
    best = await asyncio.to_thread(node.rpc, "getbestblockhash")
    tip = await follow(with_tips, b"", internal(best))
    for _ in range(count):
        (hash,) = await asyncio.to_thread(node.mine)
        tip = await follow(with_tips, tip, internal(hash))
    blocks = await bodies(with_bodies, tip)
    assert with_bodies.frames_lost == with_tips.frames_lost == 0
    for height in range(start + 1, start + count + 1):
        hash = await asyncio.to_thread(node.rpc, "getblockhash", height)
        raw = await asyncio.to_thread(node.rpc, "getblock", hash, 0)
        assert blocks[internal(hash)].hex() == raw
    with_bodies.close()
    with_tips.close()


def dropped(engine: Engine, source: str) -> int:
    return engine.counters().get(f"source.p2p {source}.dropped", 0)


async def test_a_bitcoind_is_followed_from_genesis(
    tmp_path: Path, bitcoind: NodeStarter[Bitcoind]
) -> None:
    node = bitcoind.start(zmq_topics=())
    node.mine(20)
    async with running(tmp_path, **{"ingest.p2p": [node.p2p_address]}) as engine:
        with Ring.attach(engine.instance, "blocks") as ring:
            await check_live(node, ring, 50)
        assert dropped(engine, node.p2p_address) == 0


async def test_a_litecoind_is_followed_from_genesis(
    tmp_path: Path, litecoind: NodeStarter[Litecoind]
) -> None:
    node = litecoind.start()
    node.mine(20)
    overrides = {"network": "litecoin-regtest", "ingest.p2p": [node.p2p_address]}
    async with running(tmp_path, **overrides) as engine:
        with Ring.attach(engine.instance, "blocks") as ring:
            await check_live(node, ring, 50)
        assert dropped(engine, node.p2p_address) == 0


async def test_a_bcoin_is_followed_from_genesis(tmp_path: Path, bcoin: NodeStarter[Bcoin]) -> None:
    node = bcoin.start()
    node.mine(20)
    async with running(tmp_path, **{"ingest.p2p": [node.p2p_address]}) as engine:
        with Ring.attach(engine.instance, "blocks") as ring:
            await check_live(node, ring, 50)
        assert dropped(engine, node.p2p_address) == 0


async def test_transactions_and_reorgs_of_a_bitcoind_reach_the_rings(
    tmp_path: Path, bitcoind: NodeStarter[Bitcoind]
) -> None:
    # A peer with this permission is told of transactions at once, not every few seconds.
    node = bitcoind.start(["-whitelist=noban@127.0.0.1"], zmq_topics=())
    spender = Spender(node)
    spender.mine_coins(6)
    async with running(tmp_path, **{"ingest.p2p": [node.p2p_address]}) as engine:
        with (
            Ring.attach(engine.instance, "blocks") as ring,
            Ring.attach(engine.instance, "tx") as tx_ring,
        ):
            reader, tx_reader = ring.reader(start="oldest"), tx_ring.reader(start="oldest")
            best = await asyncio.to_thread(node.rpc, "getbestblockhash")
            tip = await follow(reader, b"", internal(best))
            for depth in (1, 3, 6):
                sent = {await asyncio.to_thread(spender.send) for _ in range(2)}
                seen: set[bytes] = set()
                async with asyncio.timeout(30):
                    while len(seen) < len(sent):
                        frame = await tx_reader.next()
                        assert frame.kind == Kind.TX
                        assert frame.level == Level.UNVERIFIED
                        seen.add(bytes(frame.hash))
                assert seen == {internal(txid) for txid in sent}
                hashes = await asyncio.to_thread(node.mine, depth)
                tip = await follow(reader, tip, internal(hashes[-1]))
                await asyncio.to_thread(node.rpc, "invalidateblock", hashes[0])
                rival = await asyncio.to_thread(
                    node.rpc, "generatetodescriptor", depth + 1, "raw(52)"
                )
                tip = await follow(reader, tip, internal(rival[-1]))
            assert reader.frames_lost == tx_reader.frames_lost == 0
            reader.close()
            tx_reader.close()


async def test_peers_that_lie_are_dropped_while_an_honest_one_is_followed(tmp_path: Path) -> None:
    regtest = network("regtest")
    blocks = chain_of(30)
    false_header = blocks[-1].header[:76] + bytes(4)
    while regtest.block_hash(false_header)[31] < 0x80:
        false_header = false_header[:-4] + (
            int.from_bytes(false_header[-4:], "little") + 1
        ).to_bytes(4, "little")
    mutated = bytearray(blocks[-1].raw)
    mutated[-1] ^= 1
    lied = asyncio.Event()

    async def honest(peer: Conversation) -> None:
        await peer.greet()
        bodies = {block.hash: block.raw for block in blocks}
        while True:
            match await peer.receive():
                case p2p.GetHeaders(locator):
                    known = max(
                        (i + 1 for i, block in enumerate(blocks) if block.hash in locator),
                        default=0,
                    )
                    if known >= 29:
                        await lied.wait()
                        peer.send(p2p.Headers([blocks[29].header]))
                    else:
                        peer.send(p2p.Headers([block.header for block in blocks[:29]]))
                        peer.send(p2p.Inv([p2p.InvItem(2, blocks[29].hash)]))
                case p2p.GetData(items):
                    peer.send(*(p2p.Block(bodies[item.hash]) for item in items))

    async def false_work(peer: Conversation) -> None:
        await peer.greet()
        while True:
            await peer.expect(p2p.GetHeaders)
            peer.send(p2p.Headers([*(block.header for block in blocks[:29]), false_header]))

    async def false_body(peer: Conversation) -> None:
        await peer.greet()
        peer.send(p2p.Headers([block.header for block in blocks]))
        while True:
            request = await peer.expect(p2p.GetData)
            for item in request.items:
                if item.hash == blocks[29].hash:
                    peer.send(p2p.Block(bytes(mutated)))
                    await peer.writer.drain()
                    lied.set()

    async with (
        ScriptedPeer(regtest, honest) as good,
        ScriptedPeer(regtest, false_work) as worker,
        ScriptedPeer(regtest, false_body) as mutator,
        running(
            tmp_path, **{"ingest.p2p": [good.address, worker.address, mutator.address]}
        ) as engine,
    ):
        with Ring.attach(engine.instance, "blocks") as ring:
            reader = ring.reader(start="oldest")
            await follow(reader, b"", blocks[-1].hash)
            reader.close()
        async with asyncio.timeout(20):
            while not (dropped(engine, worker.address) and dropped(engine, mutator.address)):
                await asyncio.sleep(0.05)
        assert dropped(engine, good.address) == 0
