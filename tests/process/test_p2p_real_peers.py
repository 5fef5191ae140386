"""The P2P feed against Bitcoin Core, Litecoin Core and bcoin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from peers import Bcoin, Bitcoind, Litecoind, Spender
from peers.fixtures import NodeStarter
from peers.nodes import Node
from recording_sink import RecordingSink

from bitcoin_sprint.chains import network
from bitcoin_sprint.ingest.feed import Source, SourceKind
from bitcoin_sprint.ingest.p2p_feed import P2PFeed, PeerGroup, p2p_feeds
from bitcoin_sprint.ingest.peers import AddressBook

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])


@asynccontextmanager
async def following(
    nodes: list[Node], network_name: str = "regtest"
) -> AsyncIterator[tuple[RecordingSink, list[P2PFeed]]]:
    """Feeds running against all ``nodes``, and what they say."""
    sink = RecordingSink(network(network_name))
    group = PeerGroup(sink.network, sink, AddressBook(default_port=1))
    indexes: Iterator[int] = iter(range(1, 100))

    def new_source(name: str, kind: SourceKind) -> Source:
        return Source(next(indexes), name, kind)

    feeds = p2p_feeds(group, new_source, fixed=[node.p2p_address for node in nodes])
    sink.feeds = list(feeds)
    tasks = [asyncio.create_task(feed.run()) for feed in feeds]
    try:
        yield sink, feeds
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not group.own_nonces


def internal(hash: str) -> bytes:
    return bytes.fromhex(hash)[::-1]


def dropped(feed: P2PFeed) -> dict[str, int]:
    """Why connections ended, but for a node that was still starting."""
    causes: dict[str, int] = dict(feed.snapshot()["dropped"])
    causes.pop("unreachable", None)
    return causes


async def follow_live(node: Node, sink: RecordingSink, count: int) -> None:
    """Mine one block at a time; each comes with its exact bytes."""
    for _ in range(count):
        (hash,) = await asyncio.to_thread(node.mine)
        await sink.until(partial(sink.bodies.get, internal(hash)))
        raw = await asyncio.to_thread(node.rpc, "getblock", hash, 0)
        assert sink.bodies[internal(hash)].hex() == raw


async def test_a_bitcoind_is_synced_and_followed_for_fifty_blocks(
    bitcoind: NodeStarter[Bitcoind],
) -> None:
    node = bitcoind.start(zmq_topics=())
    node.mine(30)
    async with following([node]) as (sink, (feed,)):
        await sink.until(lambda: len(sink.bodies) == 30)
        await follow_live(node, sink, 50)
        assert sink.best_height == 80
        snapshot = feed.snapshot()
        assert snapshot["state"] == "ready"
        assert snapshot["round_trip_ms"] > 0
        assert snapshot["user_agent"].startswith("/Satoshi")
        assert dropped(feed) == {}
        for stamps in sink.stamps.values():
            assert 0 < stamps.first_byte_ns <= stamps.last_byte_ns


async def test_many_batches_of_headers_are_synced_from_a_bitcoind(
    bitcoind: NodeStarter[Bitcoind],
) -> None:
    node = bitcoind.start(zmq_topics=())
    for _ in range(45):
        await asyncio.to_thread(node.mine, 100)
    async with following([node]) as (sink, _):
        sink.asks = False
        await sink.until(lambda: sink.best_height == 4_500)
        assert [count for _, count in sink.header_calls[:3]] == [2_000, 2_000, 500]


async def test_transactions_come_by_witness_txid_from_a_bitcoind(
    bitcoind: NodeStarter[Bitcoind],
) -> None:
    # A peer with this permission is told of transactions at once, not every few seconds.
    node = bitcoind.start(["-whitelist=noban@127.0.0.1"], zmq_topics=())
    spender = Spender(node)
    spender.mine_coins(3)
    async with following([node]) as (sink, (feed,)):
        await sink.until(lambda: feed.snapshot()["state"] == "ready")
        sent = [await asyncio.to_thread(spender.send) for _ in range(3)]
        await sink.until(lambda: all(internal(txid) in sink.transactions for txid in sent))
        for txid in sent:
            raw = await asyncio.to_thread(node.rpc, "getrawtransaction", txid)
            assert sink.transactions[internal(txid)].hex() == raw
        assert feed.snapshot()["counts"].get("transactions_unrequested", 0) == 0


async def test_a_reorg_of_a_bitcoind_is_followed_block_by_block(
    bitcoind: NodeStarter[Bitcoind],
) -> None:
    node = bitcoind.start(zmq_topics=())
    hashes = node.mine(10)
    async with following([node]) as (sink, _):
        await sink.until(lambda: len(sink.bodies) == 10)
        await asyncio.to_thread(node.rpc, "invalidateblock", hashes[-3])
        rival = await asyncio.to_thread(node.rpc, "generatetodescriptor", 5, "raw(52)")
        await sink.until(lambda: all(internal(hash) in sink.bodies for hash in rival))
        assert sink.best == internal(rival[-1])
        assert sink.best_height == 12


async def test_a_bitcoind_that_restarts_is_followed_again(bitcoind: NodeStarter[Bitcoind]) -> None:
    node = bitcoind.start(zmq_topics=())
    node.mine(3)
    async with following([node]) as (sink, (feed,)):
        await sink.until(lambda: len(sink.bodies) == 3)
        await asyncio.to_thread(node.shut_down)
        await asyncio.to_thread(node.restart)
        (hash,) = await asyncio.to_thread(node.mine)
        await sink.until(lambda: internal(hash) in sink.bodies)
        assert dropped(feed) == {"lost": 1}
        assert feed.snapshot()["counts"]["connections"] == 2


async def test_two_bitcoinds_are_followed_at_once(bitcoind: NodeStarter[Bitcoind]) -> None:
    first = bitcoind.start(zmq_topics=())
    second = bitcoind.start([f"-connect={first.p2p_address}"], zmq_topics=())
    async with following([first, second]) as (sink, feeds):
        await sink.until(lambda: all(feed.snapshot()["state"] == "ready" for feed in feeds))
        for node in (first, second) * 5:
            tip = await asyncio.to_thread(node.rpc, "getblockcount")
            await follow_live(node, sink, 1)
            other = second if node is first else first
            await asyncio.to_thread(other.rpc, "waitforblockheight", tip + 1, 20_000)
        assert sink.best_height == 10
        assert [dropped(feed) for feed in feeds] == [{}, {}]


async def test_a_litecoind_is_synced_and_followed(litecoind: NodeStarter[Litecoind]) -> None:
    node = litecoind.start()
    node.mine(20)
    async with following([node], "litecoin-regtest") as (sink, (feed,)):
        await sink.until(lambda: len(sink.bodies) == 20)
        await follow_live(node, sink, 50)
        assert sink.best_height == 70
        assert "Litecoin" in feed.snapshot()["user_agent"]
        assert dropped(feed) == {}


async def test_a_litecoind_that_still_synchronises_is_followed_from_its_first_block(
    litecoind: NodeStarter[Litecoind],
) -> None:
    node = litecoind.start()  # at genesis it does not answer getheaders
    async with following([node], "litecoin-regtest") as (sink, (feed,)):
        async with asyncio.timeout(20):
            while feed.state != "ready":
                await asyncio.sleep(0.01)
        await follow_live(node, sink, 3)
        assert dropped(feed) == {}


async def test_a_bcoin_is_synced_and_followed(bcoin: NodeStarter[Bcoin]) -> None:
    node = bcoin.start()
    node.mine(20)
    async with following([node]) as (sink, (feed,)):
        await sink.until(lambda: len(sink.bodies) == 20)
        await follow_live(node, sink, 50)
        assert sink.best_height == 70
        assert "bcoin" in feed.snapshot()["user_agent"]
        assert dropped(feed) == {}


async def test_bitcoin_core_finds_no_fault_with_us(bitcoind: NodeStarter[Bitcoind]) -> None:
    node = bitcoind.start(["-debug=net"], zmq_topics=())
    node.mine(5)
    async with following([node]) as (sink, _):
        await sink.until(lambda: len(sink.bodies) == 5)
        await follow_live(node, sink, 3)
        (peer,) = await asyncio.to_thread(node.rpc, "getpeerinfo")
        assert "bitcoin-sprint" in peer["subver"]
        assert peer["inbound"]
    log = (node.directory / "output.log").read_text()
    for complaint in ("Misbehaving", "misbehaving", "Unknown command", "discouraged", "error"):
        lines = [line for line in log.splitlines() if complaint in line and "peer=" in line]
        assert lines == [], lines
