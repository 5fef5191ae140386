"""Blocks and headers at the intake: what wins, what is refused, what waits."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from intake_rig import (
    FILES,
    OTHER_PEER,
    PEER,
    THIRD_PEER,
    Rigs,
    hashes,
    moves,
    replay_tips,
    rigs,
)
from regtest_blocks import (
    REGTEST,
    bulky_transaction,
    chain_of,
    next_block,
    with_wrong_witness,
)

from bitcoin_sprint.frames import Flag, Kind, Level, Retract, Tip
from bitcoin_sprint.ingest.feed import Stamps, Verdict


@pytest.fixture
def start() -> Iterator[Rigs]:
    with rigs() as made:
        yield made


def test_a_block_goes_out_as_header_then_block_then_tip(start: Rigs) -> None:
    rig = start.start()
    block = next_block()
    outcome = rig.intake.on_block(PEER, block.raw, Stamps(1, 2, 3))
    assert outcome.verdict is Verdict.ACCEPTED
    frames = rig.frames()
    assert [(f.kind, f.level, f.hash, f.height, f.source) for f in frames] == [
        (Kind.HEADER, Level.POW, block.hash, 1, PEER.index),
        (Kind.BLOCK, Level.MERKLE, block.hash, 1, PEER.index),
        (Kind.TIP, Level.MERKLE, block.hash, 1, PEER.index),
    ]
    assert frames[0].payload == block.header
    tip = frames[2].payload
    assert isinstance(tip, Tip)
    assert tip.block_sequence == frames[1].sequence
    assert tip.previous_hash == REGTEST.genesis_hash
    assert rig.intake.body(block.hash) == block.raw


def test_the_first_copy_wins_and_later_ones_are_counted_by_source(start: Rigs) -> None:
    rig = start.start()
    block = next_block()
    assert rig.intake.on_block(PEER, block.raw).verdict is Verdict.ACCEPTED
    for _ in range(2):
        again = rig.intake.on_block(OTHER_PEER, block.raw)
        assert again.verdict is Verdict.DUPLICATE
        assert not again.punish
    assert len(hashes(rig.frames(), Kind.BLOCK)) == 1
    assert rig.count("source.peer-a.blocks_won") == 1
    assert rig.count("source.peer-b.blocks_duplicate") == 2


def test_a_header_goes_out_before_its_body_is_there_and_says_what_to_fetch(start: Rigs) -> None:
    rig = start.start()
    rig.feed(PEER)
    block = next_block()
    outcome = rig.intake.on_headers(PEER, [block.header])
    assert outcome.accepted == 1
    assert list(outcome.wanted) == [block.hash]
    assert [f.kind for f in rig.frames()] == [Kind.HEADER]
    assert rig.intake.wants_body(block.hash)
    rig.intake.on_block(PEER, block.raw)
    assert [f.kind for f in rig.frames()] == [Kind.BLOCK, Kind.TIP]
    assert not rig.intake.wants_body(block.hash)


def test_a_mutated_copy_condemns_its_sender_and_not_the_hash(start: Rigs) -> None:
    rig = start.start()
    block = next_block()
    bad = rig.intake.on_block(PEER, with_wrong_witness(block))
    assert bad.verdict is Verdict.REFUSED
    assert bad.punish
    assert hashes(rig.frames(), Kind.BLOCK) == []
    good = rig.intake.on_block(OTHER_PEER, block.raw)
    assert good.verdict is Verdict.ACCEPTED
    assert moves(rig.frames()) == [("C", block.hash)]


def test_after_a_wrong_copy_another_source_is_asked_at_once(start: Rigs) -> None:
    rig = start.start()
    rig.feed(PEER)
    other = rig.feed(OTHER_PEER)
    block = next_block()
    rig.intake.on_headers(PEER, [block.header])
    assert other.asked == []
    rig.intake.on_block(PEER, with_wrong_witness(block))
    assert other.asked == [block.hash]


def test_an_invalid_block_that_is_no_mutation_is_refused_with_its_reason_and_taken_back(
    start: Rigs,
) -> None:
    rig = start.start()
    other = rig.feed(OTHER_PEER)
    liar = next_block(claimed_height=7)
    outcome = rig.intake.on_block(PEER, liar.raw)
    assert (outcome.verdict, outcome.reason) == (Verdict.REFUSED, "bad-cb-height")
    assert outcome.punish
    assert rig.intake.tip.hash == REGTEST.genesis_hash
    assert rig.count("source.peer-a.blocks_refused") == 1
    header, retract = rig.frames()
    assert (header.kind, header.hash) == (Kind.HEADER, liar.hash)
    assert (retract.kind, retract.hash, retract.level) == (Kind.RETRACT, liar.hash, Level.MERKLE)
    assert isinstance(retract.payload, Retract)
    assert (retract.payload.sequence, retract.payload.reason) == (header.sequence, "bad-cb-height")
    # Nobody is asked for it, punished for what stands on it, or kept from the honest branch.
    rig.advance(60)
    assert other.asked == []
    above = rig.intake.on_headers(OTHER_PEER, [next_block(liar).header])
    assert not above.punish
    honest = next_block(words="honest")
    assert rig.intake.on_block(OTHER_PEER, honest.raw).verdict is Verdict.ACCEPTED
    assert moves(rig.frames()) == [("C", honest.hash)]


@pytest.mark.parametrize("raw", [b"", b"\x00" * 80, b"\xff" * 500])
def test_garbage_is_refused(start: Rigs, raw: bytes) -> None:
    rig = start.start()
    outcome = rig.intake.on_block(PEER, raw)
    assert outcome.verdict is Verdict.REFUSED
    assert outcome.punish
    assert rig.frames() == []


def test_headers_that_do_not_follow_each_other_are_refused(start: Rigs) -> None:
    rig = start.start()
    first, second, third = chain_of(3)
    outcome = rig.intake.on_headers(PEER, [first.header, third.header])
    assert outcome.refused == "non-continuous-headers"
    assert outcome.punish
    assert rig.intake.on_headers(PEER, [second.header[:79]]).punish
    assert rig.frames() == []


def test_a_header_without_proof_of_work_is_refused_and_punished(start: Rigs) -> None:
    rig = start.start()
    header = next_block().header
    forged = next(
        candidate
        for nonce in range(1 << 32)
        if REGTEST.pow_hash(candidate := header[:76] + nonce.to_bytes(4, "little"))[31] >= 0x80
    )
    outcome = rig.intake.on_headers(PEER, [forged])
    assert outcome.refused == "high-hash"
    assert outcome.punish


def test_an_unknown_parent_is_asked_for_and_nobody_is_punished(start: Rigs) -> None:
    rig = start.start()
    first, second, third = chain_of(3)
    outcome = rig.intake.on_headers(PEER, [third.header])
    assert outcome.unknown_parent == second.hash
    assert not outcome.punish
    orphan = rig.intake.on_block(PEER, third.raw)
    assert (orphan.verdict, orphan.punish) == (Verdict.ORPHAN, False)
    assert rig.frames() == []
    rig.intake.on_headers(PEER, [first.header, second.header])
    rig.intake.on_block(PEER, first.raw)
    rig.intake.on_block(PEER, second.raw)
    frames = rig.frames()
    assert replay_tips(REGTEST.genesis_hash, frames) == third.hash
    assert len(hashes(frames, Kind.HEADER)) == 3


def test_orphans_of_one_source_are_bounded(start: Rigs) -> None:
    rig = start.start()
    blocks = chain_of(8)
    for block in blocks[1:]:
        rig.intake.on_block(PEER, block.raw)
    rig.intake.on_headers(PEER, [block.header for block in blocks])
    # Two were kept, the newest two; the rest has to come again.
    assert len(hashes(rig.frames(), Kind.BLOCK)) == 2


def test_a_reorganisation_of_each_depth_is_spelled_out_block_by_block(start: Rigs) -> None:
    for depth in range(1, 7):
        rig = start.start()
        trunk = chain_of(7, words=f"trunk {depth}")
        for block in trunk:
            rig.intake.on_block(PEER, block.raw)
        rig.frames()
        fork = chain_of(depth + 1, trunk[-depth - 1], words=f"fork {depth}")
        for block in fork[:-1]:
            rig.intake.on_block(OTHER_PEER, block.raw)
        assert moves(rig.frames()) == [], "as much work is not more work"
        rig.intake.on_block(OTHER_PEER, fork[-1].raw)
        frames = rig.frames()
        left = [("D", block.hash) for block in reversed(trunk[-depth:])]
        assert moves(frames) == left + [("C", block.hash) for block in fork]
        assert replay_tips(trunk[-1].hash, frames) == fork[-1].hash
        for frame in frames:
            if isinstance(frame.payload, Tip):
                assert frame.payload.block_sequence > 0
        rig.close()
        start._open.remove(rig)


def test_headers_of_a_reorganisation_come_before_its_bodies(start: Rigs) -> None:
    rig = start.start()
    rig.feed(PEER)
    trunk = chain_of(3, words="trunk")
    for block in trunk:
        rig.intake.on_block(PEER, block.raw)
    rig.frames()
    fork = chain_of(3, trunk[0], words="fork")
    outcome = rig.intake.on_headers(PEER, [block.header for block in fork])
    assert list(outcome.wanted) == [block.hash for block in fork]
    assert hashes(rig.frames(), Kind.HEADER) == [block.hash for block in fork]
    for block in reversed(fork):
        rig.intake.on_block(PEER, block.raw)
    frames = rig.frames()
    assert hashes(frames, Kind.HEADER) == []
    assert replay_tips(trunk[-1].hash, frames) == fork[-1].hash


def test_a_forged_fork_from_far_below_is_held_and_published_when_it_overtakes(
    start: Rigs,
) -> None:
    rig = start.start()
    trunk = chain_of(160, words="trunk")
    rig.intake.on_headers(PEER, [block.header for block in trunk])
    best_height = rig.chain.best.height
    rig.frames()
    fork = chain_of(161, words="fork")
    outcome = rig.intake.on_headers(OTHER_PEER, [block.header for block in fork[:15]])
    assert (outcome.accepted, outcome.refused, outcome.punish) == (0, None, False)
    assert outcome.unknown_parent is None
    assert rig.frames() == []
    assert rig.chain.get(fork[0].hash) is None, "a held header takes no room in the chain"
    assert rig.intake.knows_header(fork[14].hash)
    held = rig.intake.on_block(OTHER_PEER, fork[5].raw)
    assert (held.verdict, held.punish) == (Verdict.HELD, False)
    # Near enough to the tip to be believed, not yet its better.
    rig.intake.on_headers(THIRD_PEER, [block.header for block in fork[15:100]])
    seen = hashes(rig.frames(), Kind.HEADER)
    assert fork[99].hash in seen
    assert fork[0].hash not in seen
    rig.intake.on_headers(THIRD_PEER, [block.header for block in fork[100:]])
    seen += hashes(rig.frames(), Kind.HEADER)
    assert rig.chain.best.height == best_height + 1
    assert {block.hash for block in fork} == set(seen)


def test_a_source_can_hold_back_only_so_many_headers(start: Rigs) -> None:
    rig = start.start()
    trunk = chain_of(160, words="trunk")
    rig.intake.on_headers(PEER, [block.header for block in trunk])
    for number in range(500):
        sibling = next_block(words=f"fork {number}")
        rig.intake.on_headers(OTHER_PEER, [sibling.header])
    rig.intake.tick()
    assert rig.count("headers_held") == 500
    assert rig.chain.best.hash == trunk[-1].hash


def test_a_header_from_the_future_is_held_and_published_when_its_time_has_come(
    start: Rigs,
) -> None:
    rig = start.start()
    feed = rig.feed(OTHER_PEER)
    rig.unix_time = 1_700_000_000.0
    ahead = next_block(time=1_700_000_000 + 7200 + 60)
    child = next_block(ahead, time=ahead.time + 1)
    outcome = rig.intake.on_headers(PEER, [ahead.header])
    assert (outcome.accepted, outcome.refused, outcome.punish) == (0, None, False)
    follow = rig.intake.on_headers(PEER, [child.header])
    assert follow.unknown_parent is None
    held = rig.intake.on_block(PEER, ahead.raw)
    assert (held.verdict, held.punish) == (Verdict.HELD, False)
    rig.advance(59)
    assert rig.frames() == []
    rig.advance(2)
    assert hashes(rig.frames(), Kind.HEADER) == [ahead.hash, child.hash]
    assert feed.asked == [ahead.hash, child.hash]
    for block in (ahead, child):
        assert rig.intake.on_block(PEER, block.raw).verdict is Verdict.ACCEPTED
    assert moves(rig.frames()) == [("C", ahead.hash), ("C", child.hash)]


def test_a_host_clock_that_is_behind_is_told_of_once(
    start: Rigs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rig = start.start()
    rig.unix_time = 1_700_000_000.0
    ahead = next_block(time=1_700_000_000 + 6 * 3600)
    rig.intake.on_headers(PEER, [ahead.header])
    for _ in range(200):
        rig.advance(60)
    told = [each.getMessage() for each in caplog.records if "host clock" in each.getMessage()]
    (line,) = told
    assert "is 6.0 h ahead of it" in line
    rig.advance(3 * 3600)
    assert "host clock: well again" in caplog.text


def test_an_engine_far_behind_jumps_to_the_newest_blocks(start: Rigs) -> None:
    rig = start.start()
    rig.feed(PEER)
    blocks = chain_of(400)
    outcome = rig.intake.on_headers(PEER, [block.header for block in blocks])
    assert list(outcome.wanted) == [block.hash for block in blocks[-6:]]
    frames = rig.frames()
    landing = blocks[-7]
    assert [(f.hash, f.level) for f in frames if f.kind is Kind.TIP] == [(landing.hash, Level.POW)]
    for block in blocks[-6:]:
        rig.intake.on_block(PEER, block.raw)
    assert replay_tips(landing.hash, rig.frames()) == blocks[-1].hash


def test_full_batches_of_new_headers_become_frames_only_at_their_end(start: Rigs) -> None:
    rig = start.start()
    rig.feed(PEER)
    blocks = chain_of(2_010)
    headers = [block.header for block in blocks]
    first = rig.intake.on_headers(PEER, headers[:2_000])
    assert first.more
    assert list(first.wanted) == []
    assert rig.frames() == []
    second = rig.intake.on_headers(PEER, headers[2_000:])
    assert not second.more
    assert list(second.wanted) == [block.hash for block in blocks[-6:]]
    assert hashes(rig.frames(), Kind.HEADER)[-1] == blocks[-1].hash


def test_a_source_that_stalls_within_its_batches_does_not_hold_the_rest(start: Rigs) -> None:
    rig = start.start()
    feed = rig.feed(PEER)
    blocks = chain_of(2_000)
    rig.intake.on_headers(PEER, [block.header for block in blocks])
    assert rig.frames() == []
    rig.advance(6)
    assert hashes(rig.frames(), Kind.HEADER)[-1] == blocks[-1].hash
    assert feed.asked == [block.hash for block in blocks[-6:]]


def test_full_batches_of_known_headers_hold_nothing_back(start: Rigs) -> None:
    rig = start.start()
    blocks = chain_of(2_001)
    headers = [block.header for block in blocks]
    rig.intake.on_headers(PEER, headers[:2_000])
    rig.intake.on_headers(PEER, [])
    rig.frames()
    rig.intake.on_headers(OTHER_PEER, headers[:2_000])
    rig.intake.on_headers(PEER, headers[2_000:])
    assert hashes(rig.frames(), Kind.HEADER) == [blocks[-1].hash]


def test_a_lone_block_from_a_file_is_published_unanchored_and_moves_no_tip(start: Rigs) -> None:
    rig = start.start()
    block = chain_of(9)[-1]
    assert rig.intake.on_block(FILES, block.raw).verdict is Verdict.ACCEPTED
    assert rig.intake.on_block(FILES, block.raw).verdict is Verdict.DUPLICATE
    frames = rig.frames()
    assert [(f.kind, f.flags, f.height) for f in frames] == [
        (Kind.HEADER, Flag.UNANCHORED, 9),
        (Kind.BLOCK, Flag.UNANCHORED, 9),
    ]
    broken = with_wrong_witness(chain_of(8, words="other")[-1])
    assert rig.intake.on_block(FILES, broken).verdict is Verdict.REFUSED


def test_a_block_replayed_alone_is_anchored_once_its_chain_is_known(start: Rigs) -> None:
    rig = start.start()
    blocks = chain_of(3)
    rig.intake.on_block(FILES, blocks[2].raw)
    rig.frames()
    for block in blocks:
        assert rig.intake.on_block(PEER, block.raw).verdict is Verdict.ACCEPTED
    frames = rig.frames()
    assert replay_tips(REGTEST.genesis_hash, frames) == blocks[2].hash
    assert hashes(frames, Kind.HEADER) == [block.hash for block in blocks]


def test_a_block_too_big_for_the_ring_moves_the_tip_without_its_body(start: Rigs) -> None:
    rig = start.start(arena_bytes=4096)
    feed = rig.feed(PEER)
    block = next_block(transactions=[bulky_transaction(4_000)])
    rig.intake.on_headers(PEER, [block.header])
    assert rig.intake.on_block(PEER, block.raw).verdict is Verdict.ACCEPTED
    frames = rig.frames()
    assert [f.kind for f in frames] == [Kind.HEADER, Kind.TIP]
    assert isinstance(frames[1].payload, Tip)
    assert frames[1].payload.block_sequence == 0
    assert rig.count("blocks_too_big") == 1
    rig.advance(60)
    assert feed.asked == [], "another copy would not fit either"


def test_an_old_block_from_a_file_is_published_by_its_place_in_the_chain(start: Rigs) -> None:
    rig = start.start()
    blocks = chain_of(200)
    rig.intake.on_headers(PEER, [block.header for block in blocks])
    rig.frames()
    assert rig.intake.on_block(PEER, blocks[9].raw).verdict is Verdict.HELD
    assert rig.intake.on_block(FILES, blocks[9].raw).verdict is Verdict.ACCEPTED
    frames = rig.frames()
    assert [(f.kind, f.height, f.flags) for f in frames] == [
        (Kind.HEADER, 10, Flag.NONE),
        (Kind.BLOCK, 10, Flag.NONE),
    ]
    stale = next_block(blocks[9], words="stale")
    assert rig.intake.on_block(FILES, stale.raw).verdict is Verdict.ACCEPTED
    assert {f.flags for f in rig.frames()} == {Flag.UNANCHORED}
