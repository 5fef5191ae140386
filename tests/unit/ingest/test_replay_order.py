"""A block goes out behind its parent, and none waits for one that never comes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from regtest_blocks import REGTEST, chain_of

from bitcoin_sprint.ingest import replay_order
from bitcoin_sprint.ingest.replay_order import Place, ReplayOrder
from bitcoin_sprint.ingest.simulator.blocks import SimBlock

CHAIN = chain_of(40)


def given(
    blocks: Sequence[SimBlock], known: bytes = REGTEST.genesis_hash
) -> tuple[list[bytes], int]:
    """What comes out, and how many of it before the end of the files."""
    order = ReplayOrder(REGTEST, {known}.__contains__)
    raws: list[bytes] = []

    def take(turns) -> None:  # type: ignore[no-untyped-def]
        raws.extend(turn.place.again() if turn.raw is None else bytes(turn.raw) for turn in turns)

    for number, block in enumerate(blocks):
        take(order.take(memoryview(block.raw), Place(Path("f"), number, lambda raw=block.raw: raw)))
    before = len(raws)
    take(order.rest())
    assert len(order) == 0
    return raws, before


@pytest.mark.parametrize("seed", range(5))
def test_whatever_their_order_blocks_come_behind_their_parents(seed: int) -> None:
    branch = chain_of(5, CHAIN[20], words="branch")
    mixed = [*CHAIN, *branch]
    random.Random(seed).shuffle(mixed)
    raws, before = given(mixed)
    assert sorted(raws) == sorted(block.raw for block in mixed)
    assert before == len(mixed)
    seen = {REGTEST.genesis_hash}
    for raw in raws:
        assert raw[4:36] in seen
        seen.add(REGTEST.block_hash(raw[:80]))


def test_blocks_that_stand_on_nothing_keep_their_order_at_the_end() -> None:
    lone = [CHAIN[30], CHAIN[10], CHAIN[20]]
    assert given(lone) == ([block.raw for block in lone], 0)


def test_files_from_the_middle_of_a_chain_begin_once_enough_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay_order, "WAITING_MAX", 8)
    part = CHAIN[10:]
    part[2], part[5] = part[5], part[2]
    raws, before = given(part)
    assert raws == [block.raw for block in CHAIN[10:]]
    assert before == len(raws)


def test_the_first_of_a_file_may_be_one_that_waits_for_a_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay_order, "WAITING_MAX", 3)
    blocks = [CHAIN[12], CHAIN[11], CHAIN[10], CHAIN[13], CHAIN[14]]
    assert given(blocks)[0] == [block.raw for block in CHAIN[10:15]]
