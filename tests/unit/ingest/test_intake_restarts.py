"""A process after another on the same rings: nothing is repeated, no tip is left half moved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from intake_rig import PEER, Rig, Rigs, hashes, moves, replay_tips, rigs
from regtest_blocks import REGTEST, chain_of

from bitcoin_sprint.frames import Kind, Level
from bitcoin_sprint.ingest.feed import Verdict
from bitcoin_sprint.validate import prove_block


@pytest.fixture
def start() -> Iterator[Rigs]:
    with rigs() as made:
        yield made


def test_a_restart_goes_on_where_the_ring_and_the_header_chain_stand(
    start: Rigs, tmp_path: Path
) -> None:
    first = start.start(directory=tmp_path)
    blocks = chain_of(5)
    for block in blocks[:4]:
        first.intake.on_block(PEER, block.raw)
    before = first.frames()
    start.crash(first)

    second = start.start(directory=tmp_path)
    assert second.chain.best.hash == blocks[3].hash
    assert second.intake.tip.hash == blocks[3].hash
    assert second.intake.on_block(PEER, blocks[2].raw).verdict is Verdict.DUPLICATE
    assert second.intake.body(blocks[1].hash) == blocks[1].raw
    second.intake.on_block(PEER, blocks[4].raw)
    after = second.frames()
    assert replay_tips(REGTEST.genesis_hash, [*before, *after]) == blocks[4].hash
    assert after[0].sequence == before[-1].sequence + 1


def test_a_restart_without_header_chain_takes_the_headers_out_of_the_ring(start: Rigs) -> None:
    first = start.start()
    blocks = chain_of(5)
    for block in blocks[:4]:
        first.intake.on_block(PEER, block.raw)
    start.crash(first)

    second = start.start()
    assert second.intake.tip.hash == blocks[3].hash
    second.intake.on_block(PEER, blocks[4].raw)
    assert moves(second.frames()) == [("C", blocks[4].hash)]


def test_a_fresh_start_on_a_known_chain_fetches_the_newest_blocks(
    start: Rigs, tmp_path: Path
) -> None:
    first = start.start(directory=tmp_path)
    blocks = chain_of(20)
    first.intake.on_headers(PEER, [block.header for block in blocks])
    first.close()
    start._open.remove(first)

    second = start.start(directory=tmp_path)
    feed = second.feed(PEER)
    second.intake.tick()
    assert feed.asked == [block.hash for block in blocks[-6:]]
    for block in blocks[-6:]:
        second.intake.on_block(PEER, block.raw)
    assert replay_tips(blocks[-7].hash, second.frames()) == blocks[-1].hash


def test_a_tip_whose_header_was_lost_is_found_when_the_headers_come_again(start: Rigs) -> None:
    rig = lost_tip(start)
    blocks = chain_of(30)
    rig.intake.on_headers(PEER, [block.header for block in blocks])
    for block in blocks[-3:]:
        rig.intake.on_block(PEER, block.raw)
    assert replay_tips(blocks[26].hash, rig.frames()) == blocks[-1].hash


def test_a_tip_that_is_lost_for_good_makes_a_jump(start: Rigs) -> None:
    rig = lost_tip(start)
    other = chain_of(30, words="other")
    rig.intake.on_headers(PEER, [block.header for block in other])
    for block in other[-6:]:
        rig.intake.on_block(PEER, block.raw)
    frames = rig.frames()
    (landing,) = [f.hash for f in frames if f.kind is Kind.TIP and f.level is Level.POW]
    assert landing == other[-7].hash
    assert replay_tips(landing, frames) == other[-1].hash


def lost_tip(start: Rigs) -> Rig:
    """A successor that finds a tip in the ring and neither file nor headers that lead to it."""
    first = start.start()
    blocks = chain_of(27)
    first.intake.on_headers(PEER, [block.header for block in blocks])
    for block in blocks[-6:]:
        first.intake.on_block(PEER, block.raw)
    assert first.intake.tip.hash == blocks[-1].hash
    start.crash(first)
    second = start.start()
    assert second.intake.tip.hash == REGTEST.genesis_hash
    return second


def test_a_successor_finishes_the_move_that_a_killed_process_began(start: Rigs) -> None:
    first = start.start()
    trunk = chain_of(3, words="trunk")
    fork = chain_of(3, trunk[0], words="fork")
    for block in (*trunk, *fork[:2]):
        first.intake.on_block(PEER, block.raw)
    # Killed when the body was out, and not one TIP frame of the move.
    first.intake.on_headers(PEER, [fork[2].header])
    proved = prove_block(fork[2].raw, REGTEST)
    first.blocks_writer.publish(
        Kind.BLOCK, [fork[2].raw, proved.trailer], hash=proved.hash, level=Level.MERKLE
    )
    before = first.frames()
    start.crash(first)
    second = start.start()
    assert second.intake.tip.hash == fork[2].hash
    after = second.frames()
    assert replay_tips(REGTEST.genesis_hash, [*before, *after]) == fork[2].hash
    assert hashes(after, Kind.BLOCK) == []
