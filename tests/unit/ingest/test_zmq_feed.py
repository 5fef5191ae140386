"""A node's ZeroMQ feed loses nothing that RPC can bring back, and says why when it can't."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from node_sink import NodeSink, Said
from scripted_node import REGTEST, ScriptedNode

from bitcoin_sprint.config.schema import NodeConfig
from bitcoin_sprint.errors import ConfigError
from bitcoin_sprint.ingest.feed import Source, SourceKind
from bitcoin_sprint.ingest.zmq_feed import ZmqFeed
from bitcoin_sprint.ingest.zmq_topics import HASHBLOCK, HASHTX, RAWBLOCK, RAWTX, SEQUENCE, TOPICS

SOURCE = Source(1, "node", SourceKind.ZMQ, trusted=True)

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


class Running:
    """A feed at work."""

    def __init__(self, config: NodeConfig, *, wants_above: int = 0, **options: Any) -> None:
        self.sink = NodeSink(REGTEST)
        self.sink.wants_above = wants_above
        self.feed = ZmqFeed(self.sink, SOURCE, config, REGTEST, **options)
        self.sink.feeds.append(self.feed)

    async def until(self, condition: Callable[[], object], timeout: float = 20.0) -> None:
        """Wait for the sink, or for the feed's own state, to make ``condition`` true."""
        async with asyncio.timeout(timeout):
            while not condition():
                await asyncio.sleep(0.002)

    def state(self, name: str) -> Any:
        snapshot = self.feed.snapshot()
        return snapshot["counts"][name] if name in snapshot["counts"] else snapshot[name]


@asynccontextmanager
async def running(
    node: ScriptedNode,
    *,
    ready: bool = True,
    wants_above: int = 0,
    poll_seconds: float = 5.0,
    **changes: Any,
) -> AsyncIterator[Running]:
    """A feed of ``node``; ``ready``: it is up, and its subscriptions are in force."""
    run = Running(node.config(**changes), wants_above=wants_above, poll_seconds=poll_seconds)
    task = asyncio.get_running_loop().create_task(run.feed.run())
    try:
        if ready:
            await run.until(lambda: run.state("state") == "ready")
            await node.subscribed()
        yield run
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.fixture
async def node() -> AsyncIterator[ScriptedNode]:
    async with ScriptedNode() as node:
        yield node


async def test_at_the_start_the_nodes_tip_and_headers_are_known(node: ScriptedNode) -> None:
    async with running(node) as run:
        assert run.sink.tips == [("up", node.chain.tip)]
        assert run.sink.best == node.chain.tip


async def test_words_come_in_the_nodes_order_with_their_bodies(node: ScriptedNode) -> None:
    async with running(node) as run:
        made = node.add_transactions(50)
        node.remove_transaction(made[7].txid)
        block = node.mine(count=20)
        old_tip = block
        connected = node.reorganise(1)
        await run.until(
            lambda: run.state("waiting") == 0 and run.sink.said[-1].hash == node.chain.tip
        )
        words = run.sink.said[1:]
        assert [(word.what, word.hash) for word in words] == [
            *(("A", each.txid) for each in made),
            ("R", made[7].txid),
            ("C", old_tip.hash),
            ("D", old_tip.hash),
            *(("C", each.hash) for each in connected),
        ]
        assert [word.raw for word in words[:50]] == [each.raw for each in made]
        assert [word.number for word in words[:51]] == list(range(1, 52))
        await run.until(
            lambda: run.sink.bodies.keys() >= {block.hash, *(b.hash for b in connected)}
        )
        assert run.sink.bodies[block.hash] == block.raw
        assert run.state("gaps") == 0


async def test_hashblock_alone_will_do(node: ScriptedNode) -> None:
    node.topics = (HASHBLOCK,)
    async with running(node, wants_above=node.chain.height) as run:
        blocks = [node.mine() for _ in range(3)]
        await run.until(lambda: all(block.hash in run.sink.bodies for block in blocks))
        assert run.sink.tips[1:] == [("C", block.hash) for block in blocks]
        assert run.state("blocks_fetched") == 3


async def test_a_reorg_told_by_hashblock_alone_brings_every_block(node: ScriptedNode) -> None:
    node.topics = (HASHBLOCK,)
    async with running(node, wants_above=node.chain.height - 2) as run:
        node.mine()
        connected = node.reorganise(3)
        await run.until(lambda: all(block.hash in run.sink.bodies for block in connected))
        assert run.sink.tips[-1] == ("C", connected[-1].hash)


async def test_rawblock_alone_will_do(node: ScriptedNode) -> None:
    node.topics = (RAWBLOCK,)
    async with running(node, wants_above=node.chain.height) as run:
        blocks = [node.mine() for _ in range(3)]
        await run.until(lambda: len(run.sink.tips) == 4)
        assert run.sink.tips[1:] == [("C", block.hash) for block in blocks]
        assert run.state("blocks_fetched") == 0


async def test_rawtx_without_sequence_tells_the_mempool_unnumbered_and_once(
    node: ScriptedNode, caplog: pytest.LogCaptureFixture
) -> None:
    node.topics = (RAWTX, HASHBLOCK)
    async with running(node) as run:
        await run.until(lambda: node.mine() and run.sink.tips[1:])  # where its blocks come from
        made = node.add_transactions(10)
        await run.until(lambda: len(run.sink.changes) == 10)
        block = node.mine()
        node.reorganise(1)
        (last,) = node.add_transactions(1)
        await run.until(lambda: ("A", last.txid) in run.sink.changes)
        told = [Said("A", each.txid, 0, each.raw) for each in (*made, last)]
        assert [word for word in run.sink.said if word.what in "AR"] == told
        assert block.coinbase.txid in run.sink.transactions
    assert sum("-zmqpubsequence" in record.message for record in caplog.records) == 1


async def test_what_a_node_tells_while_it_is_asked_is_not_taken_back(
    node: ScriptedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.topics = (HASHBLOCK, RAWBLOCK)
    async with running(node) as run:
        node.mine()
        await run.until(lambda: len(run.sink.tips) == 2)
        asked = node.answer

        def answer(method: str, params: Sequence[Any]) -> Any:
            result = asked(method, params)
            if method == "getblockhash" and not node.drops:  # it has said where it stands
                node.drops = {b"none"}
                node.mine()
            return result

        monkeypatch.setattr(node.rpc, "_answer", answer)
        node.drops = {RAWBLOCK}
        node.mine()
        node.drops = set()
        newest = node.mine()
        await run.until(lambda: run.state("resyncs") == 2)
        await run.until(lambda: run.sink.tips[-1] == ("C", node.chain.tip))
        assert newest.hash != node.chain.tip
        told = [node.chain.height_of(hash) for _, hash in run.sink.tips if hash]
        assert told == sorted(told)


async def test_hashtx_alone_has_its_bodies_fetched(node: ScriptedNode) -> None:
    node.topics = (HASHTX,)
    async with running(node) as run:
        made = node.add_transactions(5)
        await run.until(lambda: len(run.sink.changes) == 5)
        node.mine(count=2)
        (last,) = node.add_transactions(1)
        await run.until(lambda: len(run.sink.changes) == 6)
        made.append(last)
        assert run.sink.said[1:] == [Said("A", each.txid, 0, each.raw) for each in made]


async def test_sequence_without_rawtx_has_its_bodies_fetched_in_order(node: ScriptedNode) -> None:
    node.topics = (SEQUENCE,)
    async with running(node) as run:
        made = node.add_transactions(300)
        await run.until(lambda: len(run.sink.changes) == 300)
        assert run.sink.said[1:] == [
            Said("A", each.txid, number, each.raw) for number, each in enumerate(made, 1)
        ]
        assert run.state("bodies_fetched") == 300


async def test_a_lost_rawtx_is_fetched_and_nothing_overtakes_it(node: ScriptedNode) -> None:
    async with running(node) as run:
        first = node.add_transactions(3)
        node.drops = {RAWTX}
        lost = node.add_transactions(2)
        node.drops = set()
        last = node.add_transactions(3)
        await run.until(lambda: len(run.sink.changes) == 8)
        made = [*first, *lost, *last]
        assert [(word.hash, word.raw) for word in run.sink.said[1:]] == [
            (each.txid, each.raw) for each in made
        ]
        assert run.state("bodies_fetched") == 2
        assert run.state("gaps") == 1
        assert run.state("topics")["rawtx"] == {"messages": 6, "lost": 2}


async def test_a_body_that_the_node_has_no_more_is_said_without(node: ScriptedNode) -> None:
    async with running(node) as run:
        node.drops = {RAWTX}
        (gone,) = node.add_transactions(1)
        del node.mempool[gone.txid]
        node.drops = set()
        (kept,) = node.add_transactions(1)
        await run.until(lambda: len(run.sink.changes) == 2)
        assert [word.raw for word in run.sink.said[1:]] == [None, kept.raw]
        assert run.state("bodies_missing") == 1


async def test_what_a_gap_in_sequence_hid_is_said_afterwards(node: ScriptedNode) -> None:
    async with running(node) as run:
        before = node.add_transactions(30)
        await run.until(lambda: len(run.sink.changes) == 30)
        node.drops = {SEQUENCE}
        thrown_out = before[-1]
        node.remove_transaction(thrown_out.txid)
        hidden = node.add_transactions(5)
        block = node.mine(count=10)
        node.drops = set()
        after = node.add_transactions(2)
        # The third of the new ones shows the gap, the snapshot holds it, and it is said once.
        await run.until(lambda: {each.txid for each in after} <= told(run, "A"))
        assert told(run, "A") == {each.txid for each in (*before, *hidden, *after)}
        assert told(run, "R") == {thrown_out.txid}
        assert len(run.sink.changes) == 30 + 1 + 5 + 2
        assert ("up", block.hash) in run.sink.tips
        assert block.hash in run.sink.bodies
        numbers = [word.number for word in run.sink.said if word.what in "AR"]
        assert numbers == sorted(numbers)
        assert run.state("resyncs") == 2
        assert run.state("gaps") == 1
        assert run.state("messages_lost") == 7


async def test_a_gap_in_hashblock_alone_is_filled(node: ScriptedNode) -> None:
    node.topics = (HASHBLOCK,)
    async with running(node, wants_above=node.chain.height) as run:
        node.mine()
        node.drops = {HASHBLOCK}
        lost = [node.mine() for _ in range(4)]
        node.drops = set()
        last = node.mine()
        await run.until(lambda: run.sink.bodies.keys() >= {b.hash for b in (*lost, last)})
        assert run.state("messages_lost") == 4


async def test_a_lost_rawblock_is_fetched_though_hashblock_came(node: ScriptedNode) -> None:
    node.topics = (HASHBLOCK, RAWBLOCK)
    async with running(node) as run:
        node.mine()
        node.drops = {RAWBLOCK}
        lost = node.mine()
        await run.until(lambda: lost.hash in run.sink.bodies)
        assert run.sink.tips[-1] == ("C", lost.hash)


async def test_a_notifier_that_died_without_a_sign_is_noticed(
    node: ScriptedNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running(node, poll_seconds=0.05) as run:
        node.drops = set(TOPICS)
        for _ in range(3):
            block = node.mine()
            await run.until(lambda hash=block.hash: hash in run.sink.bodies)
        assert run.state("state") == "silent"
        assert run.state("silences") == 1
        assert caplog.text.count("its tip is polled by RPC") == 1
        node.drops = set()
        node.mine()
        await run.until(lambda: run.state("state") == "ready")
        assert caplog.text.count("well again") == 1


async def test_a_restart_of_the_node_is_recognised_and_nothing_is_called_thrown_out(
    node: ScriptedNode,
) -> None:
    async with running(node) as run:
        node.add_transactions(20)
        await run.until(lambda: len(run.sink.changes) == 20)
        node.unbind()
        node.mine(count=5)
        node.mempool.clear()
        node.restart()
        await run.until(lambda: ("up", node.chain.tip) in run.sink.tips)
        await node.subscribed()
        (new,) = node.add_transactions(1)
        await run.until(lambda: new.txid in told(run, "A"))
        assert told(run, "R") == set()
        assert run.state("restarts") >= 1


async def test_a_node_that_is_down_at_first_is_followed_once_it_is_there(
    node: ScriptedNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await node.rpc.stop()
    node.unbind()
    async with running(node, ready=False) as run:
        await run.until(lambda: run.state("state") == "down")
        assert "is the node running, and is rpc_url right?" in run.state("trouble")
        node.bind()
        await node.rpc.start()
        await run.until(lambda: run.state("state") == "ready")
        await node.subscribed()
        block = node.mine()
        await run.until(lambda: block.hash in run.sink.bodies)
        assert caplog.text.count("trying on") == 1
        assert caplog.text.count("well again") == 1


async def test_a_node_that_goes_is_said_to_be_lost_and_its_return_too(node: ScriptedNode) -> None:
    async with running(node) as run:
        await node.rpc.stop()
        node.unbind()
        await run.until(lambda: run.sink.tips[-1] == ("down", None))
        assert not run.feed.can_fetch
        node.bind()
        await node.rpc.start()
        await run.until(lambda: run.sink.tips[-1] == ("up", node.chain.tip))
        assert [what for what, _ in run.sink.tips].count("down") == 1


async def test_a_node_of_another_network_is_not_listened_to(
    node: ScriptedNode, caplog: pytest.LogCaptureFixture
) -> None:
    node.chain_name = "main"
    async with running(node, ready=False) as run:
        await run.until(lambda: run.state("state") == "wrong network")
        assert run.state("trouble").endswith("is a node of main, network is 'regtest'")
        node.mine()
        node.add_transactions(1)
        node.chain_name = "regtest"
        await run.until(lambda: run.state("state") == "ready")
        assert run.sink.tips == [("up", node.chain.tip)]
        assert caplog.text.count("is a node of main") == 1


async def test_wrong_credentials_are_told_and_zeromq_goes_on(node: ScriptedNode) -> None:
    async with running(node, ready=False, rpc_password="wrong") as run:
        await run.until(lambda: run.state("state") == "unauthorized")
        assert "check rpc_user, rpc_password" in run.state("trouble")
        await node.subscribed()
        assert not run.feed.can_fetch
        block = node.mine()
        await run.until(lambda: ("C", block.hash) in run.sink.tips)


async def test_without_rpc_the_node_is_followed_all_the_same(node: ScriptedNode) -> None:
    async with running(node, rpc_url="") as run:
        assert run.sink.tips == [("up", None)]
        made = node.add_transactions(3)
        block = node.mine()
        await run.until(lambda: ("C", block.hash) in run.sink.tips)
        assert told(run, "A") == {each.txid for each in made}
        assert not await run.feed.fetch_block(block.hash)
        assert any(outcome.hash == block.hash for outcome in run.sink.block_outcomes)


async def test_topics_at_several_addresses_are_joined_and_a_repeated_one_is_taken_once(
    node: ScriptedNode,
) -> None:
    async with ScriptedNode() as other:
        other.topics = (RAWTX, SEQUENCE)
        async with running(node, addresses=(node.address, other.address)) as run:
            (made,) = node.add_transactions(1)
            await other.subscribed()
            await run.until(lambda: len(run.sink.changes) == 1)
            for topic, body in ((RAWTX, made.raw), (SEQUENCE, made.txid[::-1] + b"A" + bytes(8))):
                other.publish(topic, body)
            await run.until(lambda: run.state("repeated_topics") == 2)
            assert run.sink.changes == [("A", made.txid)]
            node.unbind()
            await run.until(lambda: run.state("addresses")[node.address] is False)
            number = (2).to_bytes(8, "little")
            other.publish(SEQUENCE, made.txid[::-1] + b"R" + number)
            await run.until(lambda: len(run.sink.changes) == 2)


async def test_a_body_that_comes_by_another_address_is_waited_for(node: ScriptedNode) -> None:
    async with ScriptedNode() as bodies:
        bodies.topics = (RAWTX,)
        node.topics = (SEQUENCE,)
        addresses = (node.address, bodies.address)
        async with running(node, addresses=addresses, rpc_url="") as run:
            await bodies.subscribed()
            warm, *made = node.chain.make_transactions(4)
            bodies.publish(RAWTX, warm.raw)
            await run.until(lambda: run.state("transactions") == 1)
            for number, each in enumerate(made):
                node.publish(SEQUENCE, each.txid[::-1] + b"A" + number.to_bytes(8, "little"))
            for each in made:
                bodies.publish(RAWTX, each.raw)
            await run.until(lambda: len(run.sink.changes) == 3)
            assert [word.raw for word in run.sink.said[1:]] == [each.raw for each in made]


async def test_what_is_malformed_is_counted_and_harmless(node: ScriptedNode) -> None:
    async with running(node) as run:
        node.publish(SEQUENCE, b"short")
        node.publish(SEQUENCE, bytes(32) + b"X")
        node.publish(HASHBLOCK, b"\x01")
        node.publish(RAWBLOCK, b"no block")
        node.publish(RAWTX, b"no transaction")
        (made,) = node.add_transactions(1)
        await run.until(lambda: made.txid in told(run, "A"))
        assert run.state("malformed") == 3
        assert run.state("blocks_refused") == 1


async def test_a_block_is_fetched_on_request_once(node: ScriptedNode) -> None:
    async with running(node, wants_above=node.chain.height) as run:
        hash = node.chain.tip
        assert await run.feed.fetch_block(hash)
        assert await run.feed.fetch_block(hash)
        await run.until(lambda: hash in run.sink.bodies)
        assert node.rpc.calls["getblock"] == 1
        assert await run.feed.fetch_block(b"\x07" * 32)  # unknown to the node: no harm
        await run.until(lambda: run.state("state") == "ready")


async def test_a_long_way_of_headers_is_taken_in_batches() -> None:
    async with ScriptedNode() as node, running(node) as run:
        await run.until(lambda: run.sink.best == node.chain.tip)
        assert node.chain.height > 100
        assert run.sink.header_calls == [("node", node.chain.height)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"addresses": ("127.0.0.1:28332",)}, "ingest.zmq.addresses: '127.0.0.1:28332'"),
        ({"addresses": ("tcp://127.0.0.1:*",)}, "ingest.zmq.addresses: 'tcp://127.0.0.1:"),
        ({"rpc_url": "127.0.0.1:8332"}, "rpc_url"),
        ({"rpc_url": "http://:8332"}, "names no host"),
    ],
)
async def test_settings_that_cannot_be_right_are_named(
    node: ScriptedNode, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Running(node.config(**changes))


def told(run: Running, what: str) -> set[bytes | None]:
    return {each.hash for each in run.sink.said if each.what == what}
