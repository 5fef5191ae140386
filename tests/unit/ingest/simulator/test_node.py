"""The simulator's node speaks P2P as a full node does, to our client and to Bitcoin Core."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from p2p_client import P2PClient

from bitcoin_sprint.chains import network
from bitcoin_sprint.ingest import p2p_messages as p2p
from bitcoin_sprint.ingest.p2p_messages import InvItem, InvType
from bitcoin_sprint.ingest.simulator.blocks import WEIGHT_MAX
from bitcoin_sprint.ingest.simulator.chain import SimChain
from bitcoin_sprint.ingest.simulator.node import USER_AGENT, SimNode, TransactionShelf

NOW = 1_760_000_000
REGTEST = network("regtest")


@pytest.fixture
async def node() -> AsyncIterator[SimNode]:
    chain = SimChain(REGTEST, seed=1, coins_target=3_000)
    chain.prepare(NOW)
    node = SimNode(chain, TransactionShelf())
    await node.start()
    yield node
    await node.close()


async def test_it_shakes_hands_as_a_full_node(node: SimNode) -> None:
    async with P2PClient(REGTEST, node.port) as client:
        assert client.version is not None
        assert client.version.user_agent == USER_AGENT
        assert client.version.start_height == node.chain.height
        assert client.version.services & 0b1001 == 0b1001
    assert node.counts["handshakes"] == 1


async def test_a_client_syncs_the_chain_from_genesis(node: SimNode) -> None:
    chain = node.chain
    async with P2PClient(REGTEST, node.port) as client:
        headers = await client.headers([REGTEST.genesis_hash])
        assert headers == [chain.header(height) for height in range(1, chain.height + 1)]
        hashes = [REGTEST.block_hash(header) for header in headers]
        blocks = await client.blocks(hashes)
    assert blocks == [chain.body(each) for each in hashes]


async def test_new_blocks_are_announced_by_headers_and_by_inventory_without_sendheaders(
    node: SimNode,
) -> None:
    async with (
        P2PClient(REGTEST, node.port) as modern,
        P2PClient(REGTEST, node.port, wants_headers=False) as old,
    ):
        block = node.chain.mine(NOW + 1)
        node.announce_blocks([block])
        assert list((await modern.expect(p2p.Headers)).headers) == [block.header]
        assert list((await old.expect(p2p.Inv)).items) == [InvItem(InvType.BLOCK, block.hash)]


async def test_a_reorg_is_announced_from_the_fork(node: SimNode) -> None:
    async with P2PClient(REGTEST, node.port) as client:
        fork_locator = [node.chain.tip]
        reorg = node.chain.reorganise(3, NOW + 1)
        node.announce_blocks(reorg.connected)
        announced = list((await client.expect(p2p.Headers)).headers)
        assert announced == [block.header for block in reorg.connected]
        fork_locator.append(reorg.connected[0].previous)
        assert await client.headers(fork_locator) == announced
        stale = [block.hash for block in reorg.disconnected]
        assert await client.blocks(stale) == [block.raw for block in reorg.disconnected]


async def test_transactions_are_announced_and_served(node: SimNode) -> None:
    made = node.chain.make_transactions(40)
    node.shelf.add(made)
    async with (
        P2PClient(REGTEST, node.port) as modern,
        P2PClient(REGTEST, node.port, greet_with=()) as old,
    ):
        node.announce_transactions(made)
        by_wtxid = list((await modern.expect(p2p.Inv)).items)
        assert by_wtxid == [InvItem(InvType.WTX, each.wtxid) for each in made]
        by_txid = list((await old.expect(p2p.Inv)).items)
        assert by_txid == [InvItem(InvType.TX, each.txid) for each in made]
        modern.send(p2p.GetData(by_wtxid))
        old.send(p2p.GetData([InvItem(InvType.WITNESS_TX, each.txid) for each in made]))
        for client in (modern, old):
            served = [bytes((await client.expect(p2p.Transaction)).raw) for _ in made]
            assert served == [each.raw for each in made]


async def test_what_is_not_there_is_said_once_at_the_end(node: SimNode) -> None:
    witness = next(each for each in node.chain.make_transactions(20) if each.has_witness)
    node.shelf.add([witness])
    missing = [
        InvItem(InvType.WITNESS_BLOCK, b"\x01" * 32),
        InvItem(InvType.BLOCK, node.chain.tip),  # the stripped form
        InvItem(InvType.TX, witness.txid),  # likewise
    ]
    async with P2PClient(REGTEST, node.port) as client:
        client.send(
            p2p.GetData([missing[0], InvItem(InvType.WITNESS_BLOCK, node.chain.tip), *missing[1:]])
        )
        await client.expect(p2p.Block)
        assert list((await client.expect(p2p.NotFound)).items) == missing


async def test_the_mempool_is_told_on_request(node: SimNode) -> None:
    made = node.chain.make_transactions(5)
    async with P2PClient(REGTEST, node.port) as client:
        client.send(p2p.Mempool())
        items = list((await client.expect(p2p.Inv)).items)
    assert [item.hash for item in items] == [each.wtxid for each in made]


async def test_a_peer_that_does_not_read_costs_little_and_then_gets_everything(
    node: SimNode,
) -> None:
    block = node.chain.mine(NOW + 1, weight=WEIGHT_MAX)
    async with P2PClient(REGTEST, node.port) as slow, P2PClient(REGTEST, node.port) as quick:
        slow.send(p2p.GetData([InvItem(InvType.WITNESS_BLOCK, block.hash)] * 30))
        assert await quick.blocks([block.hash]) == [block.raw]
        (peer,) = (each for each in node.peers if each._requested)
        assert peer._transport is not None
        buffered = peer._transport.get_write_buffer_size()
        assert buffered <= (1 << 20) + len(block.raw) + 24
        for _ in range(30):
            assert bytes((await slow.expect(p2p.Block)).raw) == block.raw


@pytest.mark.parametrize(
    "noise", [b"GET / HTTP/1.1\r\n\r\n", REGTEST.magic + b"\xff" * 20, b"\x00" * 64]
)
async def test_what_is_not_the_protocol_is_dropped(node: SimNode, noise: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(noise)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
    assert node.counts["peers_dropped"] == 1
    assert not node.peers


async def test_a_peer_that_asks_before_it_greets_is_dropped(node: SimNode) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(p2p.pack_message(REGTEST.magic, p2p.GetHeaders([])))
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
    assert node.counts["peers_dropped"] == 1


async def test_the_shelf_forgets_the_oldest() -> None:
    chain = SimChain(REGTEST, seed=1, coins_target=1_000)
    chain.prepare(NOW)
    made = chain.make_transactions(20)
    shelf = TransactionShelf(kept=10)
    shelf.add(made)
    assert [shelf.get(each.txid) for each in made] == [None] * 10 + list(made[10:])
    assert [shelf.get(each.wtxid) for each in made] == [None] * 10 + list(made[10:])


async def test_bitcoin_core_syncs_follows_and_reorganises(bitcoind: Any) -> None:
    chain = SimChain(REGTEST, seed=11, coins_target=3_000)
    chain.prepare(NOW)
    node = SimNode(chain, TransactionShelf())
    await node.start()
    try:
        args = [f"-connect=127.0.0.1:{node.port}", "-v2transport=0", "-maxtipage=999999999"]
        core = await asyncio.to_thread(bitcoind.start, extra_args=args)
        await until(core, chain)
        made = chain.make_transactions(30)
        node.shelf.add(made)
        node.announce_transactions(made)
        node.announce_blocks([chain.mine(NOW + 1, weight=WEIGHT_MAX)])
        await until(core, chain)
        node.announce_blocks(chain.reorganise(4, NOW + 2).connected)
        await until(core, chain)
        tips = await asyncio.to_thread(core.rpc, "getchaintips")
        assert sorted(tip["branchlen"] for tip in tips) == [0, 4]
    finally:
        await node.close()


async def until(core: Any, chain: SimChain) -> None:
    """Wait, by Core's own long poll, for its tip to be the chain's."""
    async with asyncio.timeout(60):
        while True:
            best = await asyncio.to_thread(core.rpc, "waitforblockheight", chain.height, 1_000)
            if best["hash"] == chain.tip[::-1].hex():
                return
