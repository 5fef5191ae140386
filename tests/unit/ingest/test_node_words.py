"""The queue of a node's words: bounded in length, bytes and time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from intake_rig import NODE, OTHER_NODE, PEER
from regtest_blocks import REGTEST, START_TIME, SimBlock, chain_of

from bitcoin_sprint.frames import MempoolAction, TipAction
from bitcoin_sprint.ingest import node_words
from bitcoin_sprint.ingest.feed import NO_STAMPS, Source
from bitcoin_sprint.ingest.node_words import MempoolEvent, NodeWords
from bitcoin_sprint.ingest.tip import DEPTH_KEPT, Step
from bitcoin_sprint.validate import HeaderChain

NOW = START_TIME + 600.0 * 100_000


class Desk:
    """Words, the bodies that are there, and what became of the words."""

    def __init__(self, blocks: list[SimBlock]) -> None:
        self.now = 50.0
        self.chain = HeaderChain.open(REGTEST, None)
        for block in blocks:
            self.chain.add(block.header, NOW)
        self.bodies: set[bytes] = set()
        self.demanded: list[bytes] = []
        self.said: list[object] = []
        self.words = NodeWords(self.chain, self, [NODE, OTHER_NODE], lambda: self.now)

    def publish_node_step(self, step: Step, source: Source) -> None:  # noqa: ARG002
        self.said.append((chr(step.action), step.entry.height))

    def publish_mempool(self, event: MempoolEvent, source: Source) -> None:  # noqa: ARG002
        self.said.append(event.mempool_sequence)

    def has_body(self, hash: bytes) -> bool:
        return hash in self.bodies

    def demand_body(self, hash: bytes, source: Source) -> None:
        assert source == NODE
        self.demanded.append(hash)

    def connect(self, block: SimBlock) -> None:
        self.words.on_tip(NODE, TipAction.CONNECTED, block.hash)

    def mempool(self, number: int, raw: bytes = b"") -> None:
        event = MempoolEvent(MempoolAction.ADDED, bytes(32), number, raw, NO_STAMPS)
        self.words.on_mempool(NODE, event)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.words.tick()


BLOCKS = chain_of(4)


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk(BLOCKS)
    made.words.on_connected(NODE, BLOCKS[0].hash)
    yield made
    made.chain.close()


def test_a_body_is_asked_for_only_after_a_grace(desk: Desk) -> None:
    desk.connect(BLOCKS[1])
    desk.advance(0.01)
    assert desk.demanded == []
    desk.advance(0.03)
    assert desk.demanded == [BLOCKS[1].hash]


def test_too_many_words_end_the_wait(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_words, "EVENTS_MAX", 3)
    desk.connect(BLOCKS[1])
    for number in range(3):
        desk.mempool(number)
    assert desk.said == []
    desk.mempool(3)
    assert desk.said == [("C", 2), 0, 1, 2, 3]
    assert desk.words.unseen_bodies_count == 1


def test_too_many_bytes_end_the_wait(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_words, "EVENT_BYTES_MAX", 100)
    desk.connect(BLOCKS[1])
    desk.mempool(0, bytes(100))
    assert desk.said == []
    desk.mempool(1, b"x")
    assert desk.said == [("C", 2), 0, 1]


def test_a_word_of_an_unknown_block_is_dropped_after_a_time_and_the_next_mends_it(
    desk: Desk,
) -> None:
    stranger = chain_of(2, words="stranger")[1]
    desk.bodies.update(block.hash for block in BLOCKS)
    desk.connect(stranger)
    desk.connect(BLOCKS[3])
    desk.advance(29)
    assert desk.said == []
    assert stranger.hash in desk.demanded
    desk.advance(2)
    assert desk.said == [("C", 2), ("C", 3), ("C", 4)]
    assert desk.words.dropped_count == 1


def test_a_disconnect_of_what_is_not_connected_changes_nothing(desk: Desk) -> None:
    desk.words.on_tip(NODE, TipAction.DISCONNECTED, BLOCKS[2].hash)
    assert desk.said == []
    assert desk.words.tip is not None
    assert desk.words.tip.hash == BLOCKS[0].hash


def test_a_disconnect_first_of_all_is_told(desk: Desk) -> None:
    fresh = Desk(BLOCKS)
    fresh.bodies.update(block.hash for block in BLOCKS)
    fresh.words.on_tip(NODE, TipAction.DISCONNECTED, BLOCKS[2].hash)
    assert fresh.said == [("D", 3)]
    fresh.connect(BLOCKS[2])
    assert fresh.said == [("D", 3), ("C", 3)]
    fresh.chain.close()
    assert desk.said == []


def test_a_node_too_far_away_is_met_in_one_step() -> None:
    blocks = chain_of(DEPTH_KEPT + 3)
    desk = Desk(blocks)
    desk.bodies.update(block.hash for block in blocks)
    desk.words.on_connected(NODE, blocks[0].hash)
    desk.connect(blocks[-1])
    assert desk.said == [("C", len(blocks))]
    assert desk.words.jumps_count == 1
    desk.chain.close()


def test_strangers_have_no_word(desk: Desk) -> None:
    desk.words.on_connected(PEER, BLOCKS[1].hash)
    desk.words.on_tip(PEER, TipAction.CONNECTED, BLOCKS[1].hash)
    desk.words.on_lost(PEER)
    desk.advance(100)
    assert desk.said == []


def test_without_nodes_nothing_is_said() -> None:
    desk = Desk(BLOCKS)
    words = NodeWords(desk.chain, desk, [], lambda: desk.now)
    words.on_connected(NODE, BLOCKS[0].hash)
    words.tick()
    assert words.active is None
    desk.chain.close()
