"""Words of trusted nodes at the intake: tips of level connected, mempools, refusals, failover."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from intake_rig import (
    NODE,
    OTHER_NODE,
    PEER,
    Rig,
    Rigs,
    Seen,
    hashes,
    moves,
    replay_tips,
    rigs,
)
from regtest_blocks import REGTEST, SimBlock, chain_of, next_block, transaction

from bitcoin_sprint.frames import Kind, Level, Mempool, MempoolAction, Retract, Tip, TipAction
from bitcoin_sprint.ingest.feed import Verdict

CONNECTED = TipAction.CONNECTED
DISCONNECTED = TipAction.DISCONNECTED


@pytest.fixture
def start() -> Iterator[Rigs]:
    with rigs() as made:
        yield made


def started(start: Rigs, blocks: list[SimBlock]) -> Rig:
    """A rig with two trusted nodes, the first of which stands on the last of ``blocks``."""
    rig = start.start(nodes=[NODE, OTHER_NODE])
    for block in blocks:
        rig.intake.on_block(PEER, block.raw)
    rig.intake.on_node_connected(NODE, blocks[-1].hash)
    rig.frames()
    return rig


def connected_moves(frames: list[Seen]) -> list[tuple[str, bytes]]:
    return moves(frames, Level.CONNECTED)


def test_the_first_word_is_the_start_and_makes_no_frame(start: Rigs) -> None:
    blocks = chain_of(2)
    rig = started(start, blocks)
    assert rig.intake.connected_tip is not None
    assert rig.intake.connected_tip.hash == blocks[1].hash
    assert rig.frames() == []


def test_a_nodes_word_makes_a_tip_of_level_connected(start: Rigs) -> None:
    blocks = chain_of(3)
    rig = started(start, blocks[:2])
    rig.intake.on_block(PEER, blocks[2].raw)
    body = rig.frames()
    rig.intake.on_node_tip(NODE, CONNECTED, blocks[2].hash)
    (frame,) = rig.frames()
    assert (frame.kind, frame.level, frame.source) == (Kind.TIP, Level.CONNECTED, NODE.index)
    assert isinstance(frame.payload, Tip)
    sequences = [each.sequence for each in body if each.kind is Kind.BLOCK]
    assert [frame.payload.block_sequence] == sequences


def test_a_tip_waits_for_its_body_and_what_the_node_said_after_it_waits_too(start: Rigs) -> None:
    blocks = chain_of(3)
    rig = started(start, blocks[:1])
    node = rig.feed(NODE)
    raw, txid = transaction(1)
    rig.intake.on_headers(PEER, [blocks[1].header, blocks[2].header])
    rig.frames()
    rig.intake.on_node_tip(NODE, CONNECTED, blocks[1].hash)
    rig.intake.on_mempool(NODE, MempoolAction.REMOVED, txid, 7)
    rig.intake.on_node_tip(NODE, CONNECTED, blocks[2].hash)
    rig.intake.on_mempool(NODE, MempoolAction.ADDED, txid, 8, raw)
    rig.advance(0.05)
    assert blocks[1].hash in node.asked
    assert connected_moves(rig.frames()) == []
    assert hashes(rig.tx_frames(), Kind.MEMPOOL) == []
    rig.intake.on_block(NODE, blocks[2].raw)
    assert connected_moves(rig.frames()) == []
    rig.intake.on_block(NODE, blocks[1].raw)
    assert connected_moves(rig.frames()) == [("C", blocks[1].hash), ("C", blocks[2].hash)]
    changes = [f.payload for f in rig.tx_frames() if isinstance(f.payload, Mempool)]
    assert changes == [
        Mempool(MempoolAction.REMOVED, 7),
        Mempool(MempoolAction.ADDED, 8, raw),
    ]


def test_a_body_that_never_comes_holds_the_tip_no_longer_than_its_bound(start: Rigs) -> None:
    blocks = chain_of(3)
    rig = started(start, blocks[:1])
    rig.intake.on_headers(PEER, [blocks[1].header])
    rig.intake.on_node_tip(NODE, CONNECTED, blocks[1].hash)
    rig.advance(9)
    assert connected_moves(rig.frames()) == []
    rig.advance(2)
    (frame,) = [f for f in rig.frames() if f.kind is Kind.TIP]
    assert isinstance(frame.payload, Tip)
    assert frame.payload.block_sequence == 0
    assert rig.intake.connected_tip is not None
    assert rig.intake.connected_tip.hash == blocks[1].hash


def test_a_tip_whose_header_is_unknown_is_asked_of_the_node(start: Rigs) -> None:
    blocks = chain_of(3)
    rig = started(start, blocks[:1])
    node = rig.feed(NODE)
    rig.intake.on_node_tip(NODE, CONNECTED, blocks[2].hash)
    rig.advance(0.05)
    assert node.asked == [blocks[2].hash]
    orphan = rig.intake.on_block(NODE, blocks[2].raw)
    assert orphan.verdict is Verdict.ORPHAN
    rig.intake.on_headers(NODE, [blocks[1].header])
    rig.advance(0.05)
    rig.advance(0.05)
    assert blocks[1].hash in node.asked
    rig.intake.on_block(NODE, blocks[1].raw)
    assert connected_moves(rig.frames()) == [("C", blocks[1].hash), ("C", blocks[2].hash)]


def test_a_reorganisation_told_step_by_step_keeps_the_nodes_order(start: Rigs) -> None:
    trunk = chain_of(4, words="trunk")
    fork = chain_of(3, trunk[1], words="fork")
    rig = started(start, trunk)
    for block in fork:
        rig.intake.on_block(PEER, block.raw)
    rig.frames()
    for block in (trunk[3], trunk[2]):
        rig.intake.on_node_tip(NODE, DISCONNECTED, block.hash)
    for block in fork:
        rig.intake.on_node_tip(NODE, CONNECTED, block.hash)
    frames = rig.frames()
    assert connected_moves(frames) == [
        ("D", trunk[3].hash),
        ("D", trunk[2].hash),
        *(("C", block.hash) for block in fork),
    ]


def test_a_node_that_names_only_its_new_tip_gets_the_way_spelled_out(start: Rigs) -> None:
    trunk = chain_of(4, words="trunk")
    fork = chain_of(3, trunk[1], words="fork")
    rig = started(start, trunk)
    for block in fork:
        rig.intake.on_block(PEER, block.raw)
    rig.frames()
    rig.intake.on_node_tip(NODE, CONNECTED, fork[2].hash)
    frames = rig.frames()
    assert len(connected_moves(frames)) == 5
    assert replay_tips(trunk[3].hash, frames, Level.CONNECTED) == fork[2].hash


def test_a_node_back_on_another_tip_gets_the_way_there_spelled_out(start: Rigs) -> None:
    trunk = chain_of(4, words="trunk")
    fork = chain_of(3, trunk[1], words="fork")
    rig = started(start, trunk)
    rig.intake.on_node_lost(NODE)
    for block in fork:
        rig.intake.on_block(PEER, block.raw)
    rig.frames()
    rig.intake.on_node_connected(NODE, fork[2].hash)
    assert replay_tips(trunk[3].hash, rig.frames(), Level.CONNECTED) == fork[2].hash


def test_the_first_configured_nodes_word_counts_and_others_stand_by(start: Rigs) -> None:
    blocks = chain_of(3)
    rig = started(start, blocks[:2])
    raw, txid = transaction(1)
    rig.intake.on_block(PEER, blocks[2].raw)
    rig.frames()
    rig.intake.on_node_connected(OTHER_NODE, blocks[1].hash)
    rig.intake.on_node_tip(OTHER_NODE, CONNECTED, blocks[2].hash)
    rig.intake.on_mempool(OTHER_NODE, MempoolAction.ADDED, txid, 1, raw)
    rig.advance(60)
    assert connected_moves(rig.frames()) == []
    assert [f.kind for f in rig.tx_frames()] == [Kind.TX], "first to bring it, all the same"


def test_another_node_has_the_word_while_the_first_is_down(start: Rigs) -> None:
    blocks = chain_of(5)
    rig = started(start, blocks[:2])
    for block in blocks[2:]:
        rig.intake.on_block(PEER, block.raw)
    rig.intake.on_node_connected(OTHER_NODE, blocks[2].hash)
    rig.frames()
    rig.intake.on_node_lost(NODE)
    rig.advance(1)
    assert connected_moves(rig.frames()) == []
    rig.advance(2)
    assert connected_moves(rig.frames()) == [("C", blocks[2].hash)]
    rig.intake.on_node_tip(OTHER_NODE, CONNECTED, blocks[3].hash)
    assert connected_moves(rig.frames()) == [("C", blocks[3].hash)]
    # Back, but behind: it would take the tip back, so it stands by until it has caught up.
    rig.intake.on_node_connected(NODE, blocks[1].hash)
    rig.advance(1)
    assert connected_moves(rig.frames()) == []
    for block in blocks[2:4]:
        rig.intake.on_node_tip(NODE, CONNECTED, block.hash)
    rig.advance(1)
    rig.intake.on_node_tip(NODE, CONNECTED, blocks[4].hash)
    (frame,) = [f for f in rig.frames() if f.kind is Kind.TIP]
    assert (frame.hash, frame.source) == (blocks[4].hash, NODE.index)


def test_a_refused_block_is_retracted_with_all_that_builds_on_it(start: Rigs) -> None:
    trunk = chain_of(3, words="trunk")
    rig = started(start, trunk[:1])
    for block in trunk[1:]:
        rig.intake.on_block(PEER, block.raw)
    rig.frames()
    rig.intake.on_node_refused(NODE, trunk[1].hash, "bad-txns-inputs-missingorspent")
    frames = rig.frames()
    retracted = {f.hash: f.payload for f in frames if isinstance(f.payload, Retract)}
    assert set(retracted) == {trunk[1].hash, trunk[2].hash}
    assert retracted[trunk[1].hash].reason == "bad-txns-inputs-missingorspent"
    assert retracted[trunk[1].hash].sequence > 0
    assert moves(frames) == [("D", trunk[2].hash), ("D", trunk[1].hash)]
    rig.intake.on_node_refused(NODE, trunk[1].hash, "again")
    assert rig.frames() == []
    # The honest chain goes on although the refused one has more work.
    honest = next_block(trunk[0], words="honest")
    rig.intake.on_block(PEER, honest.raw)
    assert moves(rig.frames()) == [("C", honest.hash)]
    late = next_block(trunk[2])
    rig.intake.on_headers(PEER, [late.header])
    rig.intake.on_block(PEER, late.raw)
    assert moves(rig.frames()) == []


def test_the_end_of_a_refused_branch_takes_back_all_that_the_node_would_have_connected(
    start: Rigs,
) -> None:
    trunk = chain_of(4, words="trunk")
    rig = started(start, trunk[:1])
    for block in trunk[1:]:
        rig.intake.on_block(PEER, block.raw)
    rig.frames()
    rig.intake.on_node_refused(NODE, trunk[3].hash, "invalid")
    frames = rig.frames()
    assert set(hashes(frames, Kind.RETRACT)) == {block.hash for block in trunk[1:]}
    assert replay_tips(trunk[3].hash, frames) == trunk[0].hash


def test_a_refused_block_that_the_node_connects_after_all_counts_again(start: Rigs) -> None:
    trunk = chain_of(3, words="trunk")
    rig = started(start, trunk[:1])
    rig.intake.on_block(PEER, trunk[1].raw)
    rig.intake.on_node_refused(NODE, trunk[1].hash, "invalidated")
    rig.frames()
    rig.intake.on_node_tip(NODE, CONNECTED, trunk[1].hash)
    frames = rig.frames()
    assert connected_moves(frames) == [("C", trunk[1].hash)]
    assert moves(frames) == [("C", trunk[1].hash)]
    rig.intake.on_block(PEER, trunk[2].raw)
    assert moves(rig.frames()) == [("C", trunk[2].hash)]


def test_a_node_that_turned_back_unheard_is_believed_by_its_headers_and_its_tip(
    start: Rigs,
) -> None:
    trunk = chain_of(3, words="trunk")
    rig = started(start, trunk[:1])
    rig.intake.on_block(PEER, trunk[1].raw)
    for turned_back in (
        lambda: rig.intake.on_node_connected(NODE, trunk[1].hash),
        lambda: rig.intake.on_headers(NODE, [trunk[2].header]),
    ):
        rig.intake.on_node_tip(NODE, DISCONNECTED, trunk[1].hash)
        rig.intake.on_node_refused(NODE, trunk[1].hash, "invalidated")
        assert rig.intake.tip.hash == trunk[0].hash
        turned_back()
        assert rig.intake.tip.hash == trunk[1].hash
    assert rig.intake.on_headers(PEER, [trunk[2].header]).refused is None


def test_a_stranger_refuses_nothing(start: Rigs) -> None:
    blocks = chain_of(2)
    rig = started(start, blocks)
    rig.intake.on_node_refused(PEER, blocks[1].hash, "because")
    assert rig.frames() == []


def test_a_restart_keeps_the_connected_tip(start: Rigs) -> None:
    blocks = chain_of(4)
    rig = started(start, blocks[:2])
    for block in blocks[2:]:
        rig.intake.on_block(PEER, block.raw)
    rig.intake.on_node_tip(NODE, CONNECTED, blocks[2].hash)
    start.crash(rig)
    second = start.start(nodes=[NODE, OTHER_NODE])
    second.intake.on_node_connected(NODE, blocks[3].hash)
    assert connected_moves(second.frames()) == [("C", blocks[3].hash)]


def test_a_body_that_the_ring_has_overwritten_is_fetched_again_for_a_nodes_word(
    start: Rigs,
) -> None:
    blocks = chain_of(2)
    rig = started(start, [blocks[0]])
    node = rig.feed(NODE)
    rig.intake.on_block(PEER, blocks[1].raw)
    for _ in range(4096):
        rig.blocks_writer.publish(
            Kind.HEADER, blocks[0].header, hash=REGTEST.genesis_hash, level=Level.POW
        )
    rig.frames()
    rig.intake.on_node_tip(NODE, CONNECTED, blocks[1].hash)
    rig.advance(0.05)
    assert node.asked == [blocks[1].hash]
    assert rig.intake.on_block(NODE, blocks[1].raw).verdict is Verdict.ACCEPTED
    frames = rig.frames()
    assert [f.kind for f in frames] == [Kind.BLOCK, Kind.TIP]
    assert frames[1].level is Level.CONNECTED


def test_when_a_block_is_refused_the_bodies_of_the_next_best_branch_are_asked_for(
    start: Rigs,
) -> None:
    trunk = chain_of(3, words="trunk")
    rig = started(start, trunk[:1])
    feed = rig.feed(PEER)
    fork = chain_of(2, trunk[0], words="fork")
    for block in trunk[1:]:
        rig.intake.on_block(PEER, block.raw)
    rig.intake.on_headers(PEER, [block.header for block in fork])
    assert feed.asked == [], "no more work than the tip"
    rig.intake.on_node_refused(NODE, trunk[1].hash, "bad-blk-sigops")
    assert feed.asked == [block.hash for block in fork]
    for block in fork:
        rig.intake.on_block(PEER, block.raw)
    assert replay_tips(trunk[0].hash, rig.frames()) == fork[1].hash
