import logging
import struct

import pytest
from relay_rig import Rings, block_payload, txid_of

from bitcoin_sprint.errors import Closed
from bitcoin_sprint.frames import Kind, Level, Mempool, MempoolAction, TipAction
from bitcoin_sprint.ring import Ring
from bitcoin_sprint.transports.core_topics import TOPICS, CoreTopics

HASH = bytes(range(32))
OTHER = bytes(range(32, 64))
TRANSACTIONS = [b"coinbase", b"second tx", b"third"]


class Rig:
    """The drop-in topics on real rings, and the messages that they sent."""

    def __init__(self, rings, level=Level.MERKLE):
        self.rings = rings
        self.wanted = set(TOPICS)
        self.messages = []
        self.topics = CoreTopics(level, self.wanted.__contains__, self._send)
        self.attached = [Ring.attach(rings.instance, name) for name in ("blocks", "tx")]
        self.topics.attach(*self.attached)
        self.watcher = self.attached[0].reader("newest")

    def _send(self, topic, body, counter):
        self.messages.append((topic.decode(), bytes(body), struct.unpack("<I", counter)[0]))

    def run(self):
        """What a worker would do: tell of tips at once, then go on until nothing is left."""
        while (frame := self.watcher.poll()) is not None:
            self.topics.tip(frame)
        self.drain()

    def drain(self):
        for _ in range(100_000):
            if not self.topics.advance(1):
                return
        raise AssertionError("never comes to an end")

    def of(self, *topics):
        return [(topic, body) for topic, body, _ in self.messages if topic in topics]

    def numbers(self, topic):
        return [number for name, _, number in self.messages if name == topic]

    def close(self):
        self.watcher.close()
        self.topics.detach()
        for ring in self.attached:
            ring.close()


@pytest.fixture
def rings():
    rings = Rings()
    yield rings
    rings.close()


@pytest.fixture
def rig(rings):
    rig = Rig(rings)
    yield rig
    rig.close()


def raw_block():
    return block_payload(TRANSACTIONS)[: 81 + sum(map(len, TRANSACTIONS))]


def transaction_messages():
    messages = []
    for number, raw in enumerate(TRANSACTIONS):
        messages += [("hashtx", txid_of(number)[::-1]), ("rawtx", raw)]
    return messages


def test_a_connected_block_is_told_as_a_node_tells_it(rings, rig):
    number = rings.block(TRANSACTIONS, HASH)
    rings.tip(TipAction.CONNECTED, HASH, number)
    rig.run()
    assert rig.of("hashblock") == [("hashblock", HASH[::-1])]
    assert rig.of("rawblock") == [("rawblock", raw_block())]
    ordered = [*transaction_messages(), ("sequence", HASH[::-1] + b"C")]
    assert rig.of("hashtx", "rawtx", "sequence") == ordered
    assert rig.of("hashblock", "rawblock") == [(t, b) for t, b, _ in rig.messages[:2]]


def test_a_disconnected_block_tells_its_transactions_and_d_but_no_hashblock(rings, rig):
    number = rings.block(TRANSACTIONS, HASH)
    rings.tip(TipAction.DISCONNECTED, HASH, number)
    rig.run()
    assert rig.of("hashblock", "rawblock") == []
    ordered = [*transaction_messages(), ("sequence", HASH[::-1] + b"D")]
    assert rig.of("hashtx", "rawtx", "sequence") == ordered


def test_the_mempool_is_told_as_a_node_tells_it(rings, rig):
    added = Mempool(MempoolAction.ADDED, 7, b"raw").pack()
    removed = Mempool(MempoolAction.REMOVED, 8).pack()
    rings.publish(Kind.MEMPOOL, added, hash=HASH)
    rings.publish(Kind.MEMPOOL, removed, hash=OTHER)
    rig.run()
    assert [(topic, body) for topic, body, _ in rig.messages] == [
        ("hashtx", HASH[::-1]),
        ("rawtx", b"raw"),
        ("sequence", HASH[::-1] + b"A" + struct.pack("<Q", 7)),
        ("sequence", OTHER[::-1] + b"R" + struct.pack("<Q", 8)),
    ]


def test_a_node_without_sequence_has_its_transactions_told_and_no_number_invented(rings, rig):
    added = Mempool(MempoolAction.ADDED, 0, b"raw").pack()
    rings.publish(Kind.MEMPOOL, added, hash=HASH)
    rig.run()
    assert [(topic, body) for topic, body, _ in rig.messages] == [
        ("hashtx", HASH[::-1]),
        ("rawtx", b"raw"),
    ]


def test_transactions_of_peers_stay_off(rings, rig):
    rings.publish(Kind.TX, b"raw", hash=HASH)
    rings.publish(Kind.HEADER, bytes(80), hash=HASH)
    rig.run()
    assert rig.messages == []


def test_both_rings_keep_the_order_in_which_the_node_spoke(rings, rig):
    expected = []
    for number in range(20):
        txid = bytes([number]) * 32
        rings.publish(Kind.MEMPOOL, Mempool(MempoolAction.REMOVED, number).pack(), hash=txid)
        expected.append(txid[::-1] + b"R" + struct.pack("<Q", number))
        if number % 3 == 0:
            block = rings.block([b"x"], txid)
            rings.tip(TipAction.CONNECTED, txid, block)
            expected.append(txid[::-1] + b"C")
        if number % 7 == 0:
            rig.run()
    rig.run()
    assert [body for _, body in rig.of("sequence")] == expected


def test_only_the_configured_level_speaks(rings):
    rig = Rig(rings, Level.CONNECTED)
    number = rings.block([b"x"], HASH)
    rings.tip(TipAction.CONNECTED, HASH, number, Level.MERKLE)
    rig.run()
    assert rig.messages == []
    rings.tip(TipAction.CONNECTED, HASH, number, Level.CONNECTED)
    rig.run()
    assert len(rig.of("hashblock")) == len(rig.of("sequence")) == 1
    rig.close()


def test_every_topic_counts_for_itself_from_zero_and_also_what_nobody_hears(rings, rig):
    for round_number in range(3):
        if round_number == 1:
            rig.wanted.clear()
        if round_number == 2:
            rig.wanted.update(TOPICS)
        number = rings.block(TRANSACTIONS, bytes([round_number]) * 32)
        rings.tip(TipAction.CONNECTED, bytes([round_number]) * 32, number)
        rig.run()
    assert rig.numbers("hashblock") == rig.numbers("rawblock") == [0, 2]
    assert rig.numbers("rawtx") == rig.numbers("hashtx") == [0, 1, 2, 6, 7, 8]
    assert rig.numbers("sequence") == [0, 2]


def test_only_half_of_the_transaction_topics_wanted_keeps_both_counting(rings, rig):
    rig.wanted.discard(b"rawtx")
    rings.tip(TipAction.CONNECTED, HASH, rings.block(TRANSACTIONS, HASH))
    rig.run()
    rig.wanted.add(b"rawtx")
    rings.tip(TipAction.CONNECTED, OTHER, rings.block(TRANSACTIONS, OTHER))
    rig.run()
    assert rig.numbers("hashtx") == [0, 1, 2, 3, 4, 5]
    assert rig.numbers("rawtx") == [3, 4, 5]


def test_a_block_is_told_in_slices(rings, rig):
    rings.tip(TipAction.CONNECTED, HASH, rings.block(TRANSACTIONS, HASH))
    seen = []
    while rig.topics.advance(1):
        seen.append(len(rig.messages))
    assert 2 in seen
    assert 4 in seen


def test_a_body_that_is_gone_leaves_a_hole_in_the_counters(rings, rig):
    rings.tip(TipAction.CONNECTED, HASH, 0)
    rig.run()
    rings.tip(TipAction.CONNECTED, OTHER, rings.block([b"x"], OTHER))
    rig.run()
    assert rig.numbers("hashblock") == [0, 1]
    assert rig.numbers("rawblock") == rig.numbers("rawtx") == rig.numbers("hashtx") == [1]
    assert rig.numbers("sequence") == [0, 1]
    assert rig.topics.lost == 2


def test_a_body_under_another_hash_is_not_taken_for_it(rings, rig):
    rings.tip(TipAction.CONNECTED, HASH, rings.block([b"x"], OTHER))
    rig.run()
    assert rig.of("rawblock") == []


def test_overwritten_frames_leave_a_hole_in_every_ordered_topic():
    rings = Rings(slot_count=64, arena_bytes=1 << 20)
    rig = Rig(rings)
    try:
        for number in range(200):
            payload = Mempool(MempoolAction.ADDED, number, b"raw").pack()
            rings.publish(Kind.MEMPOOL, payload, hash=HASH)
        rig.run()
        assert rig.topics.lost >= 1
        for topic in ("hashtx", "rawtx", "sequence"):
            numbers = rig.numbers(topic)
            assert numbers[0] == 1
            assert numbers == list(range(1, len(numbers) + 1))
    finally:
        rig.close()
        rings.close()


def test_losses_are_told_once_an_episode(rings, rig, caplog):
    for number in range(5):
        rings.tip(TipAction.CONNECTED, HASH, rings.block([b"x"], OTHER) if number else 0)
    rig.run()
    assert rig.topics.lost == 10
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert ["overwritten before it was sent" in record.getMessage() for record in told] == [True]


def test_a_ring_that_ends_is_told_and_a_fresh_one_can_be_followed(rings, rig):
    rings.begin_anew()
    with pytest.raises(Closed):
        rig.drain()
    rig.attached = [Ring.attach(rings.instance, name) for name in ("blocks", "tx")]
    rig.topics.attach(*rig.attached)
    rings.publish(Kind.MEMPOOL, Mempool(MempoolAction.REMOVED, 1).pack(), hash=HASH)
    rig.drain()
    assert len(rig.of("sequence")) == 1
