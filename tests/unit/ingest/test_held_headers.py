"""Headers held back: bounded for each source and in all, and given back in order."""

from __future__ import annotations

from intake_rig import OTHER_PEER, PEER, THIRD_PEER
from regtest_blocks import chain_of, next_block

from bitcoin_sprint.ingest.feed import Source
from bitcoin_sprint.ingest.held_headers import ForkHeaders, FutureHeaders, HeldHeader


def held(number: int, source: Source) -> HeldHeader:
    block = next_block(words=f"held {number}")
    return HeldHeader(block.hash, block.header, 1, source)


def test_a_branch_comes_back_oldest_first() -> None:
    forks = ForkHeaders()
    blocks = chain_of(4)
    for block in blocks[1:]:
        assert forks.add(HeldHeader(block.hash, block.header, block.height, PEER))
    branch = forks.branch_to(blocks[2].hash)
    assert [each.hash for each in branch] == [blocks[1].hash, blocks[2].hash]
    assert forks.branch_to(blocks[0].hash) == []
    forks.discard(blocks[1].hash)
    assert [each.hash for each in forks.branch_to(blocks[2].hash)] == [blocks[2].hash]


def test_a_source_cannot_hold_more_than_its_share() -> None:
    forks = ForkHeaders(capacity=10, capacity_per_source=3)
    assert [forks.add(held(n, PEER)) for n in range(4)] == [True, True, True, False]
    assert forks.add(held(0, PEER)), "one held already is no more"
    assert forks.add(held(9, OTHER_PEER))


def test_when_all_is_full_the_busiest_source_makes_room() -> None:
    forks = ForkHeaders(capacity=4, capacity_per_source=4)
    for number in range(3):
        forks.add(held(number, PEER))
    assert forks.add(held(10, OTHER_PEER))
    assert forks.add(held(20, THIRD_PEER))
    assert held(0, PEER).hash not in forks
    assert len(forks) == 4
    assert not forks.add(held(3, PEER)), "the busiest displaces nobody"


def test_future_headers_come_when_due_and_children_not_before_parents() -> None:
    future = FutureHeaders()
    parent = next_block()
    child = next_block(parent)
    assert future.add(PEER, parent.hash, parent.header, 100.0)
    assert future.add(PEER, child.hash, child.header, 50.0)
    assert parent.hash in future
    assert future.take_due(99.0) == []
    assert [header for _, header in future.take_due(100.0)] == [parent.header, child.header]
    assert len(future) == 0


def test_future_headers_are_bounded_for_each_source() -> None:
    future = FutureHeaders(capacity=3, capacity_per_source=2)
    blocks = [next_block(words=f"future {number}") for number in range(5)]

    def add(number: int, source: Source) -> bool:
        return future.add(source, blocks[number].hash, blocks[number].header, 10.0)

    assert [add(0, PEER), add(1, PEER), add(2, PEER)] == [True, True, False]
    assert [add(3, OTHER_PEER), add(4, THIRD_PEER)] == [True, False]
    future.take_due(10.0)
    assert add(2, PEER)
