"""The tip's own rules, where the intake's tests do not reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from regtest_blocks import REGTEST, START_TIME, SimBlock, chain_of, next_block

from bitcoin_sprint.ingest.tip import DEPTH_KEPT, BestTip, Step
from bitcoin_sprint.validate.header_chain import HeaderChain, HeaderEntry

NOW = START_TIME + 600.0 * 100_000


@pytest.fixture
def chain() -> Iterator[HeaderChain]:
    opened = HeaderChain.open(REGTEST, None)
    yield opened
    opened.close()


def add(chain: HeaderChain, blocks: Sequence[SimBlock]) -> list[HeaderEntry]:
    return [chain.add(block.header, NOW) for block in blocks]


def told(steps: Sequence[Step]) -> list[tuple[str, bytes]]:
    return [(chr(step.action), step.entry.hash) for step in steps]


def test_a_fork_from_below_the_start_is_followed(chain: HeaderChain) -> None:
    trunk = add(chain, chain_of(5, words="trunk"))
    tip = BestTip(chain, trunk[3])
    assert told(tip.add_body(trunk[4])) == [("C", trunk[4].hash)]
    first = next_block(words="fork")
    fork = add(chain, [first, *chain_of(5, first, words="fork")])
    moves = [told(tip.add_body(entry)) for entry in fork]
    assert moves[:-1] == [[]] * 5
    assert moves[-1] == [
        *(("D", entry.hash) for entry in reversed(trunk)),
        *(("C", entry.hash) for entry in fork),
    ]
    # And back again, to what was linked before.
    more = add(chain, chain_of(2, chain_of(5, words="trunk")[-1], words="more"))
    for entry in more:
        tip.add_header(entry)
    assert tip.missing(16) == [entry.hash for entry in more]
    assert tip.add_body(more[0]) == []
    assert len(tip.add_body(more[1])) == 6 + 7


def test_bodies_come_in_any_order(chain: HeaderChain) -> None:
    entries = add(chain, chain_of(6))
    root = chain.get(REGTEST.genesis_hash)
    assert root is not None
    tip = BestTip(chain, root)
    for entry in reversed(entries[1:]):
        assert tip.add_body(entry) == []
    assert tip.missing(16) == [entries[0].hash]
    assert told(tip.add_body(entries[0])) == [("C", entry.hash) for entry in entries]
    assert tip.missing(16) == []


def test_of_two_with_the_same_work_the_first_proved_stays(chain: HeaderChain) -> None:
    first, second = add(chain, [next_block(words="a"), next_block(words="b")])
    root = chain.get(REGTEST.genesis_hash)
    assert root is not None
    tip = BestTip(chain, root)
    tip.add_header(first)
    tip.add_header(second)
    assert set(tip.missing(16)) == {first.hash, second.hash}
    assert told(tip.add_body(second)) == [("C", second.hash)]
    assert tip.missing(16) == []
    assert tip.add_body(first) == []
    assert tip.tip.hash == second.hash


def test_what_is_deep_is_forgotten(chain: HeaderChain) -> None:
    root = chain.get(REGTEST.genesis_hash)
    assert root is not None
    tip = BestTip(chain, root)
    entries = add(chain, chain_of(3 * DEPTH_KEPT))
    for entry in entries:
        tip.add_body(entry)
    assert len(tip._linked) <= 2 * DEPTH_KEPT
    # A fork that leaves the tip's chain far below is still followed.
    first = next_block(words="late")
    fork = add(chain, [first, *chain_of(3 * DEPTH_KEPT, first, words="late")])
    moves: list[Step] = []
    for entry in fork:
        moves = tip.add_body(entry) or moves
    assert tip.tip.hash == fork[-1].hash
    assert len(moves) == 6 * DEPTH_KEPT + 1


def test_when_a_block_is_refused_the_best_of_the_rest_is_the_tip(chain: HeaderChain) -> None:
    root = chain.get(REGTEST.genesis_hash)
    assert root is not None
    tip = BestTip(chain, root)
    trunk = add(chain, chain_of(4, words="trunk"))
    first = next_block(words="fork")
    fork = add(chain, [first, next_block(first, words="fork")])
    for entry in (*trunk, *fork):
        tip.add_body(entry)
    steps = told(tip.refuse(trunk[1].hash))
    assert steps == [
        *(("D", entry.hash) for entry in reversed(trunk)),
        *(("C", entry.hash) for entry in fork),
    ]
    assert tip.is_refused(trunk[3].hash)
    assert tip.refuse(trunk[1].hash) == []
    assert tip.add_body(trunk[2]) == []
    tip.allow(trunk[1].hash)
    for entry in trunk[1:]:
        steps = told(tip.add_body(entry)) or steps
    assert tip.tip.hash == trunk[3].hash
