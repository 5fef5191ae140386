"""The P2P feed against scripted peers, honest and hostile, on real sockets.

The clock is in the test's hand; only waits between looks at it are real.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
from recording_sink import RecordingSink
from scripted_peer import Conversation, Script, ScriptedPeer

from bitcoin_sprint.chains import network
from bitcoin_sprint.errors import ConfigError
from bitcoin_sprint.ingest import p2p_messages as p2p
from bitcoin_sprint.ingest.feed import HeadersOutcome, Source, SourceKind
from bitcoin_sprint.ingest.p2p_causes import Cause
from bitcoin_sprint.ingest.p2p_feed import P2PFeed, PeerGroup, connection_options, p2p_feeds
from bitcoin_sprint.ingest.p2p_framing import MessageHeader, checksum, pack_frame
from bitcoin_sprint.ingest.p2p_messages import InvItem, InvType
from bitcoin_sprint.ingest.p2p_session import SessionLimits
from bitcoin_sprint.ingest.peers import AddressBook, PeerPolicy
from bitcoin_sprint.ingest.simulator.blocks import SimBlock
from bitcoin_sprint.ingest.simulator.chain import SimChain
from bitcoin_sprint.ingest.simulator.node import SimNode, TransactionShelf

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

REGTEST = network("regtest")
MAGIC = REGTEST.magic
NOW = 1_760_000_000
LIMITS = SessionLimits()
QUICK = PeerPolicy(backoff_s=0.01, backoff_max_s=0.01, backoff_fixed_max_s=0.01)


class Scene:
    """Feeds at work on some peers, and a clock."""

    def __init__(self, limits: SessionLimits, policy: PeerPolicy) -> None:
        self.now = 1_000.0
        self.sink = RecordingSink(REGTEST)
        self.book = AddressBook(default_port=1, policy=policy, clock=lambda: self.now)
        self.group = PeerGroup(REGTEST, self.sink, self.book, limits=limits, clock=lambda: self.now)
        self.feeds: list[P2PFeed] = []

    async def ended(self, cause: Cause, feed: int = 0) -> None:
        """Wait until a feed's connection ended for this cause, and no other."""
        await self.until(lambda: self.feeds[feed].snapshot()["dropped"])
        assert self.feeds[feed].snapshot()["dropped"] == {cause: 1}

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for what the sink is not told of."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)

    def counts(self, feed: int = 0) -> dict[str, int]:
        counts: dict[str, int] = self.feeds[feed].snapshot()["counts"]
        return counts

    async def ready(self, feed: int = 0) -> None:
        await self.until(lambda: self.feeds[feed].state == "ready")


@asynccontextmanager
async def scene(
    *scripts: Script | SimNode,
    limits: SessionLimits = LIMITS,
    policy: PeerPolicy = QUICK,
) -> AsyncIterator[Scene]:
    """A feed for each script or node, in their order."""
    made = Scene(limits, policy)
    async with AsyncExitStack() as stack:
        addresses = []
        for script in scripts:
            if isinstance(script, SimNode):
                addresses.append(f"127.0.0.1:{script.port}")
            else:
                peer = await stack.enter_async_context(ScriptedPeer(REGTEST, script))
                addresses.append(peer.address)

        def new_source(name: str, kind: SourceKind) -> Source:
            return Source(1 + addresses.index(name.removeprefix("p2p ")), name, kind)

        made.feeds = p2p_feeds(made.group, new_source, fixed=addresses)
        made.sink.feeds = list(made.feeds)
        tasks = [asyncio.create_task(feed.run()) for feed in made.feeds]
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results), results
            assert {feed.state for feed in made.feeds} == {"stopped"}


@pytest.fixture
async def honest() -> AsyncIterator[SimNode]:
    """A node with a few blocks."""
    chain = SimChain(REGTEST, seed=1)
    for number in range(5):
        chain.mine(NOW + number)
    node = SimNode(chain, TransactionShelf())
    await node.start()
    yield node
    await node.close()


def mine(count: int, seed: int = 2) -> list[SimBlock]:
    chain = SimChain(REGTEST, seed=seed)
    return [chain.mine(NOW + number) for number in range(count)]


def mine_large(weight: int = 1_000_000) -> list[SimBlock]:
    """A chain whose last block is large."""
    chain = SimChain(REGTEST, seed=3)
    return [*chain.prepare(NOW), chain.mine(NOW + 10, weight=weight)]


def inventory(start: int, count: int) -> p2p.Inv:
    """Transactions that do not exist."""
    hashes = (number.to_bytes(32, "big") for number in range(start, start + count))
    return p2p.Inv([InvItem(InvType.WTX, hash) for hash in hashes])


async def serve(peer: Conversation, blocks: Sequence[SimBlock]) -> None:
    """Answer questions honestly until the end."""
    known = {block.hash: block for block in blocks}
    while True:
        match await peer.receive():
            case p2p.GetHeaders(locator):
                start = max((i + 1 for i, b in enumerate(blocks) if b.hash in locator), default=0)
                peer.send(p2p.Headers([b.header for b in blocks[start : start + 2_000]]))
            case p2p.GetData(items):
                for item in items:
                    if item.hash in known:
                        peer.send(p2p.Block(known[item.hash].raw))
                    else:
                        peer.send(p2p.NotFound([item]))


class Reserve:
    """A script of an honest peer that announces nothing and serves what it is asked for."""

    def __init__(self, blocks: Sequence[SimBlock]) -> None:
        self._bodies = {block.hash: block.raw for block in blocks}
        self.ready = asyncio.Event()

    async def __call__(self, peer: Conversation) -> None:
        await peer.greet()
        while True:
            match await peer.receive():
                case p2p.GetHeaders():
                    peer.send(p2p.Headers([]))
                    self.ready.set()
                case p2p.GetData(items):
                    peer.send(*(p2p.Block(self._bodies[item.hash]) for item in items))


async def test_an_honest_peers_blocks_are_all_fetched(honest: SimNode) -> None:
    async with scene(honest) as it:
        await it.sink.until(lambda: len(it.sink.bodies) == 5)
        block = honest.chain.mine(NOW + 100)
        honest.announce_blocks([block])
        await it.sink.until(lambda: block.hash in it.sink.bodies)
        assert it.sink.bodies[block.hash] == block.raw
        assert it.feeds[0].snapshot()["dropped"] == {}


async def test_blocks_are_asked_for_with_their_witnesses() -> None:
    blocks = mine(1)
    asked: list[InvItem] = []

    async def script(peer: Conversation) -> None:
        await peer.greet()
        await peer.serve_headers([blocks[0].header])
        asked.extend((await peer.expect(p2p.GetData)).items)
        peer.send(p2p.Block(blocks[0].raw))

    async with scene(script) as it:
        await it.sink.until(lambda: it.sink.bodies)
        assert asked == [InvItem(InvType.WITNESS_BLOCK, blocks[0].hash)]


async def test_a_header_is_told_while_its_body_still_arrives() -> None:
    block = mine_large()[-1]
    go_on = asyncio.Event()

    async def script(peer: Conversation) -> None:
        await peer.greet()
        await peer.expect(p2p.GetHeaders)
        frame = p2p.pack_message(MAGIC, p2p.Block(block.raw))
        peer.send_bytes(frame[:200])
        await go_on.wait()
        peer.send_bytes(frame[200:])

    async with scene(script) as it:
        it.sink.heights[block.previous] = 1
        await it.sink.until(lambda: block.hash in it.sink.heights)
        assert it.sink.bodies == {}
        go_on.set()
        await it.sink.until(lambda: block.hash in it.sink.bodies)
        assert it.sink.stamps[block.hash].first_byte_ns < it.sink.stamps[block.hash].last_byte_ns


async def test_one_leader_is_asked_for_a_long_header_chain() -> None:
    blocks = mine(5_000)

    async def script(peer: Conversation) -> None:
        await peer.greet()
        await serve(peer, blocks)

    async with scene(script, script, script) as it:
        it.sink.asks = False
        await it.sink.until(lambda: it.sink.best_height == 5_000)
        await it.until(lambda: len(it.sink.header_calls) >= 7)
        # Each is asked for a first batch; the rest comes from one.
        assert sum(count for _, count in it.sink.header_calls) <= 3 * 2_000 + 3_000


async def test_a_new_leader_takes_over_when_the_first_is_lost() -> None:
    blocks = mine(5_000)

    async def deserter(peer: Conversation) -> None:
        await peer.greet()
        await peer.serve_headers([block.header for block in blocks[:2_000]])
        await peer.expect(p2p.GetHeaders)
        peer.writer.close()

    async def script(peer: Conversation) -> None:
        await peer.greet()
        await serve(peer, blocks)

    async with scene(deserter, script) as it:
        it.sink.asks = False
        await it.sink.until(lambda: it.sink.best_height == 5_000)


async def test_a_block_announced_by_inventory_is_followed() -> None:
    blocks = mine(3)

    async def script(peer: Conversation) -> None:
        await peer.greet()
        await peer.serve_headers([])
        peer.send(p2p.Inv([InvItem(InvType.BLOCK, blocks[-1].hash)]))
        await serve(peer, blocks)

    async with scene(script) as it:
        await it.sink.until(lambda: len(it.sink.bodies) == 3)


async def test_an_announcement_during_an_open_question_is_not_lost() -> None:
    blocks = mine(3)

    async def script(peer: Conversation) -> None:
        await peer.greet()
        await peer.expect(p2p.GetHeaders)
        peer.send(p2p.Inv([InvItem(InvType.BLOCK, blocks[-1].hash)]), p2p.Headers([]))
        await serve(peer, blocks)

    async with scene(script) as it:
        await it.sink.until(lambda: len(it.sink.bodies) == 3)


async def test_a_block_announced_by_a_peer_that_left_a_question_open_is_asked_for_anew() -> None:
    blocks = mine(1)
    asked = 0

    async def script(peer: Conversation) -> None:
        nonlocal asked
        await peer.greet()
        await peer.expect(p2p.GetHeaders)  # it still synchronises, and does not answer
        asked += 1
        peer.send(p2p.Inv([InvItem(InvType.BLOCK, blocks[0].hash)]), p2p.FeeFilter(1))
        await peer.expect(p2p.GetHeaders)
        asked += 1
        peer.send(p2p.Headers([blocks[0].header]))
        await serve(peer, blocks)

    async with scene(script) as it:
        await it.until(lambda: it.counts().get("blocks_announced"))
        assert asked == 1
        it.now += LIMITS.headers_patience_s
        await it.sink.until(lambda: it.sink.bodies)
        assert "headers_stalls" not in it.counts()


async def test_headers_of_an_unknown_parent_lead_to_a_question_and_no_punishment() -> None:
    blocks = mine(12)

    async def script(peer: Conversation) -> None:
        await peer.greet()
        await peer.serve_headers([])
        peer.send(p2p.Headers([blocks[-1].header]))
        await serve(peer, blocks)

    async with scene(script) as it:
        await it.sink.until(lambda: len(it.sink.bodies) == 12)
        assert it.feeds[0].snapshot()["dropped"] == {}


async def test_a_peer_on_a_chain_that_never_joins_ours_is_asked_now_and_then_only() -> None:
    questions = 0

    async def script(peer: Conversation) -> None:
        nonlocal questions
        await peer.greet()
        while True:
            await peer.expect(p2p.GetHeaders)
            questions += 1
            peer.send(p2p.Headers([mine(3)[-1].header]))

    async with scene(script) as it:
        await it.sink.until(lambda: it.sink.header_calls)
        for number in range(2, 5):
            it.now += LIMITS.headers_retry_s
            await it.until(lambda number=number: questions == number)  # type: ignore[misc]
        assert it.feeds[0].snapshot()["dropped"] == {}


async def test_a_peer_with_a_false_header_is_dropped_and_banned() -> None:
    visits = 0

    async def script(peer: Conversation) -> None:
        nonlocal visits
        visits += 1
        await peer.greet()
        await peer.serve_headers([mine(1)[0].header])

    async with scene(script) as it:
        it.sink.header_verdict = lambda _: HeadersOutcome(refused="high-hash", punish=True)
        await it.ended(Cause.BAD_HEADER)
        address = it.feeds[0]._fixed
        assert address is not None
        assert it.book.is_banned(address)
        it.now += PeerPolicy().ban_s - 1
        await asyncio.sleep(0.05)
        assert visits == 1


async def test_a_false_head_of_a_block_ends_the_connection_before_its_body() -> None:
    block = mine_large()[-1]

    async def script(peer: Conversation) -> None:
        await peer.greet()
        peer.send_bytes(p2p.pack_message(MAGIC, p2p.Block(block.raw))[:110])

    async with scene(script) as it:
        it.sink.header_verdict = lambda _: HeadersOutcome(refused="high-hash", punish=True)
        await it.ended(Cause.BAD_HEADER)
        assert it.sink.block_outcomes == []


async def test_a_broken_body_costs_its_sender_the_connection_and_another_is_asked() -> None:
    (block,) = mine(1)
    reserve = Reserve([block])
    broken = bytearray(block.raw)
    broken[-1] ^= 1

    async def script(peer: Conversation) -> None:
        await peer.greet()
        await reserve.ready.wait()
        await peer.serve_headers([block.header])
        await peer.expect(p2p.GetData)
        peer.send(p2p.Block(bytes(broken)))

    async with scene(script, reserve) as it:
        await it.ended(Cause.BAD_BLOCK)
        it.sink.fetch_from_all(block.hash)  # the intake's work, once it has refused a body
        await it.sink.until(lambda: block.hash in it.sink.bodies)
        assert it.sink.sources[block.hash] == it.feeds[1].name


async def test_half_a_block_then_silence_stalls_and_another_peer_is_asked() -> None:
    blocks = mine_large()
    block = blocks[-1]
    reserve = Reserve([block])

    async def staller(peer: Conversation) -> None:
        await peer.greet()
        await reserve.ready.wait()
        await peer.serve_headers([block.header])
        await peer.expect(p2p.GetData)
        peer.send_bytes(p2p.pack_message(MAGIC, p2p.Block(block.raw))[:100_000])

    async with scene(staller, reserve) as it:
        it.sink.preload([each.raw for each in blocks[:-1]])
        await it.ready()
        call = it.feeds[0]._call
        assert call is not None
        await it.until(lambda: call.connection.receiving_bytes)
        it.now += LIMITS.block_s + len(block.raw) / LIMITS.bytes_per_s_min + 1
        await it.sink.until(lambda: block.hash in it.sink.bodies)
        assert it.sink.sources[block.hash] == it.feeds[1].name
        (cause,) = it.feeds[0].snapshot()["dropped"]
        assert cause in (Cause.BLOCK_STALL, Cause.SLOW_MESSAGE)


async def test_a_block_that_never_comes_stalls_by_the_clock() -> None:
    blocks = mine(1)

    async def script(peer: Conversation) -> None:
        await peer.greet()
        await peer.serve_headers([blocks[0].header])

    async with scene(script) as it:
        await it.until(lambda: it.counts().get("blocks_requested"))
        it.now += LIMITS.block_s - 1
        await asyncio.sleep(0.3)
        assert it.feeds[0].state == "ready"
        it.now += 2
        await it.ended(Cause.BLOCK_STALL)
        assert it.sink.failed_bodies == [(it.feeds[0].name, blocks[0].hash)]


async def test_a_peer_lost_in_the_middle_of_a_block_is_replaced_at_once() -> None:
    (block,) = mine(1)
    reserve = Reserve([block])

    async def script(peer: Conversation) -> None:
        await peer.greet()
        await reserve.ready.wait()
        await peer.serve_headers([block.header])
        await peer.expect(p2p.GetData)
        peer.send_bytes(p2p.pack_message(MAGIC, p2p.Block(block.raw))[:-1])
        await peer.writer.drain()
        peer.writer.close()

    async with scene(script, reserve) as it:
        await it.sink.until(lambda: block.hash in it.sink.bodies)
        assert it.sink.failed_bodies == [(it.feeds[0].name, block.hash)]


async def test_a_peer_that_has_not_the_block_is_no_liar_and_another_is_asked() -> None:
    (block,) = mine(1)
    reserve = Reserve([block])

    async def script(peer: Conversation) -> None:
        await peer.greet()
        await reserve.ready.wait()
        await peer.serve_headers([block.header])
        peer.send(p2p.NotFound((await peer.expect(p2p.GetData)).items))

    async with scene(script, reserve) as it:
        await it.sink.until(lambda: block.hash in it.sink.bodies)
        assert it.sink.failed_bodies == [(it.feeds[0].name, block.hash)]
        assert it.counts()["blocks_not_found"] == 1
        assert it.feeds[0].snapshot()["dropped"] == {}


async def test_a_block_with_a_wrong_checksum_is_asked_of_another() -> None:
    (block,) = mine(1)
    reserve = Reserve([block])
    frame = bytearray(p2p.pack_message(MAGIC, p2p.Block(block.raw)))
    frame[20] ^= 1

    async def script(peer: Conversation) -> None:
        await peer.greet()
        await reserve.ready.wait()
        await peer.serve_headers([block.header])
        await peer.expect(p2p.GetData)
        peer.send_bytes(bytes(frame))

    async with scene(script, reserve) as it:
        await it.sink.until(lambda: block.hash in it.sink.bodies)
        assert it.sink.failed_bodies == [(it.feeds[0].name, block.hash)]
        assert it.counts()["bad_checksums"] == 1
        assert it.feeds[0].snapshot()["dropped"] == {}


async def test_endless_headers_that_were_not_asked_for_are_a_flood() -> None:
    header = mine(1)[0].header

    async def script(peer: Conversation) -> None:
        await peer.greet()
        while True:
            peer.send(p2p.Headers([header] * 2_000))
            await peer.writer.drain()

    async with scene(script) as it:
        await it.ended(Cause.HEADERS_FLOOD)
        asked = LIMITS.announced_headers_burst // 2_000 + 1
        assert len(it.sink.header_calls) <= asked


async def test_the_same_full_batch_again_and_again_is_a_flood() -> None:
    headers = [block.header for block in mine(2_000)]

    async def script(peer: Conversation) -> None:
        await peer.greet()
        while True:
            await peer.expect(p2p.GetHeaders)
            peer.send(p2p.Headers(headers))

    async with scene(script) as it:
        it.sink.asks = False
        await it.ended(Cause.HEADERS_FLOOD)


async def test_a_peer_that_never_answers_getheaders_is_dropped_by_the_clock() -> None:
    async def script(peer: Conversation) -> None:
        await peer.greet()

    async with scene(script) as it:
        await it.ready()
        for number in range(1, LIMITS.headers_stalls_max + 1):
            it.now += LIMITS.headers_s + 1
            await it.until(lambda n=number: it.counts().get("headers_stalls") == n)  # type: ignore[misc]
            assert it.feeds[0].state == "ready"
            it.now += LIMITS.headers_retry_s
            await asyncio.sleep(0.3)
        it.now += LIMITS.headers_s + 1
        await it.ended(Cause.HEADERS_STALL)
        assert not Cause.HEADERS_STALL.is_lie


async def test_blocks_that_nobody_asked_for_are_drained_and_then_a_flood() -> None:
    block = mine_large(weight=400_000)[-1]
    orphan = msgspec.structs.replace(block, header=b"\1" * 80)

    async def script(peer: Conversation) -> None:
        await peer.greet()
        while True:
            peer.send(p2p.Block(orphan.raw))
            await peer.writer.drain()

    async with scene(script) as it:
        await it.ended(Cause.UNREQUESTED)
        assert it.sink.block_outcomes == []
        assert it.counts()["blocks_unrequested"] == LIMITS.unrequested_blocks_burst + 1


async def test_a_redundant_copy_of_a_block_is_not_stored() -> None:
    blocks = mine_large()
    sent = asyncio.Event()

    async def slow(peer: Conversation) -> None:
        await peer.greet()
        await peer.expect(p2p.GetHeaders)
        await sent.wait()
        peer.send(p2p.Block(blocks[-1].raw))
        peer.send(p2p.FeeFilter(1))

    async def quick(peer: Conversation) -> None:
        await peer.greet()
        await serve(peer, blocks)

    async with scene(slow, quick) as it:
        await it.sink.until(lambda: blocks[-1].hash in it.sink.bodies)
        sent.set()
        await it.until(lambda: it.counts(0).get("blocks_redundant"))
        assert "blocks" not in it.counts(0)


async def test_transactions_are_asked_for_by_wtxid_and_handed_on() -> None:
    chain = SimChain(REGTEST, seed=3)
    chain.prepare(NOW)
    transactions = chain.make_transactions(20)
    asked: list[InvItem] = []

    async def script(peer: Conversation) -> None:
        await peer.greet()
        peer.send(p2p.Inv([InvItem(InvType.WTX, each.wtxid) for each in transactions]))
        asked.extend((await peer.expect(p2p.GetData)).items)
        peer.send(*(p2p.Transaction(each.raw) for each in transactions))

    async with scene(script) as it:
        await it.sink.until(lambda: all(each.txid in it.sink.transactions for each in transactions))
        assert asked == [InvItem(InvType.WTX, each.wtxid) for each in transactions]
        assert it.counts()["transactions"] == 20
        assert "transactions_unrequested" not in it.counts()
        requests = it.group.requests
        assert requests is not None
        assert len(requests) == 0


async def test_an_old_peers_transactions_are_asked_for_with_witness_by_txid() -> None:
    chain = SimChain(REGTEST, seed=3)
    chain.prepare(NOW)
    (transaction,) = chain.make_transactions(1)
    asked: list[InvItem] = []

    async def script(peer: Conversation) -> None:
        await peer.greet(wtxid_relay=False, version=70015)
        peer.send(p2p.Inv([InvItem(InvType.TX, transaction.txid)]))
        asked.extend((await peer.expect(p2p.GetData)).items)
        peer.send(p2p.Transaction(transaction.raw))

    async with scene(script) as it:
        await it.sink.until(lambda: transaction.txid in it.sink.transactions)
        assert asked == [InvItem(InvType.WITNESS_TX, transaction.txid)]
        assert "transactions_unrequested" not in it.counts()


async def test_a_transaction_announced_by_two_is_asked_of_one_and_then_of_the_other() -> None:
    chain = SimChain(REGTEST, seed=3)
    chain.prepare(NOW)
    (transaction,) = chain.make_transactions(1)
    announced = asyncio.Event()
    asked = asyncio.Event()

    async def silent(peer: Conversation) -> None:
        await peer.greet()
        peer.send(p2p.Inv([InvItem(InvType.WTX, transaction.wtxid)]))
        await peer.expect(p2p.GetData)
        asked.set()

    async def helpful(peer: Conversation) -> None:
        await asked.wait()
        await peer.greet()
        peer.send(p2p.Inv([InvItem(InvType.WTX, transaction.wtxid)]), p2p.FeeFilter(1))
        announced.set()
        await peer.expect(p2p.GetData)
        peer.send(p2p.Transaction(transaction.raw))

    async with scene(silent, helpful) as it:
        await announced.wait()
        await it.until(lambda: it.counts(1).get("transactions_announced"))
        assert it.sink.transactions == {}
        it.now += 5.1
        await it.sink.until(lambda: transaction.txid in it.sink.transactions)
        assert it.sink.sources[transaction.txid] == it.feeds[1].name


async def test_transactions_that_nobody_asked_for_are_not_heard_and_then_a_flood() -> None:
    chain = SimChain(REGTEST, seed=3)
    chain.prepare(NOW)
    (transaction,) = chain.make_transactions(1)

    async def script(peer: Conversation) -> None:
        await peer.greet()
        for _ in range(LIMITS.unrequested_transactions_burst + 1):
            peer.send(p2p.Transaction(transaction.raw))

    async with scene(script) as it:
        await it.ended(Cause.UNREQUESTED)
        assert it.sink.transactions == {}


async def test_a_broken_transaction_costs_its_sender_the_connection() -> None:
    raw = b"\1" * 100
    wtxid = network("regtest").block_hash(raw[:80])

    async def script(peer: Conversation) -> None:
        await peer.greet(wtxid_relay=False, version=70015)
        peer.send(p2p.Inv([InvItem(InvType.TX, wtxid)]))
        await peer.expect(p2p.GetData)
        peer.send(p2p.Transaction(raw))

    async with scene(script) as it:
        await it.ended(Cause.BAD_TRANSACTION)


async def test_a_peer_is_asked_for_a_bounded_number_of_what_it_announces() -> None:
    async def script(peer: Conversation) -> None:
        await peer.greet()
        peer.send(inventory(0, 3_000))

    async with scene(script) as it:
        await it.until(lambda: it.counts().get("transactions_announced") == 3_000)
        assert it.counts()["transactions_requested"] == 256


async def test_announcements_far_above_any_honest_rate_are_a_flood() -> None:
    limits = msgspec.structs.replace(LIMITS, announced_transactions_burst=2_000)

    async def script(peer: Conversation) -> None:
        await peer.greet()
        for start in range(0, 3_000, 1_000):
            peer.send(inventory(start, 1_000))

    async with scene(script, limits=limits) as it:
        await it.ended(Cause.MESSAGE_FLOOD)


async def test_questions_get_an_empty_answer() -> None:
    answers: list[p2p.Message] = []
    done = asyncio.Event()
    items = [InvItem(InvType.WITNESS_BLOCK, bytes(32))]

    async def script(peer: Conversation) -> None:
        await peer.greet()
        await peer.expect(p2p.GetHeaders)
        peer.send(p2p.GetHeaders([bytes(32)]), p2p.GetData(items), p2p.GetAddr(), p2p.Mempool())
        peer.send_bytes(pack_frame(MAGIC, "getcfilters", b"x"))
        answers.append(await peer.expect(p2p.Headers))
        answers.append(await peer.expect(p2p.NotFound))
        done.set()

    async with scene(script) as it:
        await asyncio.wait_for(done.wait(), 10)
        assert answers == [p2p.Headers([]), p2p.NotFound(items)]
        assert it.feeds[0].state == "ready"


async def test_a_fixed_peer_of_another_network_is_told_of_and_not_banned() -> None:
    async def script(peer: Conversation) -> None:
        await peer.expect(p2p.Version)
        peer.send_bytes(p2p.pack_message(network("main").magic, peer.own_version()))

    async with scene(script) as it:
        await it.ended(Cause.WRONG_MAGIC)
        assert it.feeds[0].state == "wrong network"
        assert it.book.snapshot()["bans"] == 0


async def test_a_peer_that_comes_back_is_connected_to_again_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "bitcoin_sprint")
    visits = 0

    async def script(peer: Conversation) -> None:
        nonlocal visits
        visits += 1
        if visits <= 5:
            peer.writer.close()
            return
        await peer.greet()

    async with scene(script) as it:
        async with asyncio.timeout(10):
            while it.feeds[0].state != "ready":
                it.now += 0.01
                await asyncio.sleep(0.005)
        assert it.counts()["connections"] == 1
    begun, ended = caplog.records
    assert "hangs up before the handshake" in begun.getMessage()
    assert "well again after" in ended.getMessage()
    told: Any = ended
    assert told.attempts == 5
    assert told.user_agent == "/scripted:1/"


async def test_a_refused_connection_is_counted_as_unreachable() -> None:
    async def script(peer: Conversation) -> None:
        await peer.greet()

    async with ScriptedPeer(REGTEST, script) as peer:
        port = peer.port
    made = Scene(LIMITS, QUICK)
    source = Source(1, "p2p gone", SourceKind.P2P)
    (feed,) = p2p_feeds(made.group, lambda _n, _k: source, fixed=[f"127.0.0.1:{port}"])
    made.feeds = [feed]
    task = asyncio.create_task(feed.run())
    await made.ended(Cause.UNREACHABLE)
    assert not feed.can_fetch
    assert not await feed.fetch_block(bytes(32))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_hostile_peers_do_not_keep_an_honest_peers_blocks_from_us(honest: SimNode) -> None:
    """All at once, and in our own thread at that; an honest block comes within two seconds."""
    announcements = [
        p2p.pack_message(MAGIC, inventory(start, 50_000)) for start in range(0, 300_000, 50_000)
    ]
    big = MessageHeader(MAGIC, "block", 4_000_000, bytes(4)).encode()
    junk = bytes(100_000)

    async def magic(peer: Conversation) -> None:
        peer.send_bytes(b"\0" * 1_000)

    async def drip(peer: Conversation) -> None:
        await peer.greet()
        peer.send_bytes(big)
        for _ in range(1_000):
            peer.send_bytes(b"\0")
            await asyncio.sleep(0.005)

    async def headers(peer: Conversation) -> None:
        await peer.greet()
        header = mine(1)[0].header
        while True:
            peer.send(p2p.Headers([header] * 2_000))
            await peer.writer.drain()

    async def checksums(peer: Conversation) -> None:
        await peer.greet()
        header = MessageHeader(MAGIC, "tx", len(junk), bytes(4))
        while True:
            peer.send_bytes(header.encode() + junk)
            await peer.writer.drain()

    async def invs(peer: Conversation) -> None:
        await peer.greet()
        while True:
            for frame in announcements:
                peer.send_bytes(frame)
                await peer.writer.drain()

    async def unknown(peer: Conversation) -> None:
        await peer.greet()
        frame = pack_frame(MAGIC, "nonsense", bytes(2_000_000))
        while True:
            peer.send_bytes(frame)
            await peer.writer.drain()

    async with scene(honest, magic, drip, headers, checksums, invs, unknown) as it:
        await it.sink.until(lambda: len(it.sink.bodies) == 5)
        for number in range(10):  # each within the bound of ``until``, all the while they shout
            block = honest.chain.mine(NOW + 100 + number)
            honest.announce_blocks([block])
            await it.sink.until(lambda hash=block.hash: hash in it.sink.bodies)  # type: ignore[misc]
        await it.until(lambda: all(it.feeds[n].snapshot()["dropped"] for n in (1, 3, 4, 5, 6)))
        causes = [set(feed.snapshot()["dropped"]) for feed in it.feeds]
        assert causes == [
            set(),
            {Cause.WRONG_MAGIC},
            set(),  # the drip is within its allowance, and costs nothing
            {Cause.HEADERS_FLOOD},
            {Cause.BAD_CHECKSUM},
            {Cause.MESSAGE_FLOOD},
            {Cause.MESSAGE_FLOOD},
        ]


async def test_feeds_are_made_for_fixed_peers_and_for_found_ones_up_to_the_count() -> None:
    sink = RecordingSink(REGTEST)

    def feeds(seeds: tuple[str, ...]) -> list[str]:
        book = AddressBook(default_port=18444, dns_seeds=seeds)
        group = PeerGroup(REGTEST, sink, book)
        made = p2p_feeds(
            group,
            lambda name, kind: Source(0, name, kind),
            fixed=["10.0.0.1", "10.0.0.1:18444", "[::1]:5"],
            outbound_count=4,
        )
        return [feed.name for feed in made]

    fixed = ["p2p 10.0.0.1:18444", "p2p [::1]:5"]
    assert feeds(()) == fixed
    assert feeds(("seed.example",)) == [*fixed, "p2p 1", "p2p 2"]
    with pytest.raises(ConfigError, match="peer address 'no port:x'"):
        p2p_feeds(
            PeerGroup(REGTEST, sink, AddressBook(default_port=1)),
            lambda name, kind: Source(0, name, kind),
            fixed=["no port:x"],
        )


async def test_a_networks_rules_become_the_connections_options() -> None:
    litecoin = network("litecoin-regtest")
    options = connection_options(litecoin, transactions=False)
    assert options.magic == litecoin.magic
    assert not options.relay_transactions
    assert checksum(b"") == bytes.fromhex("5df6e0e2")
