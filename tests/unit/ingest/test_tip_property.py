"""Whatever the order in which headers and blocks arrive, the tip is the model's, step by step."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from intake_rig import OTHER_PEER, PEER, THIRD_PEER, Rig, hashes, replay_tips, rigs
from regtest_blocks import GENESIS, REGTEST, Parent, SimBlock, next_block, with_wrong_witness

from bitcoin_sprint.frames import Kind, Tip, TipAction
from bitcoin_sprint.ingest.feed import Verdict

SOURCES = (PEER, OTHER_PEER, THIRD_PEER)


@functools.cache
def block_at(path: tuple[int, ...]) -> SimBlock:
    """The block of a tree at ``path``: which child was taken at each height."""
    parent: Parent | SimBlock = block_at(path[:-1]) if len(path) > 1 else GENESIS
    return next_block(parent, words=f"tree {path[-1]}")


@st.composite
def trees(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """Paths of a tree of blocks, parents before their children."""
    paths: list[tuple[int, ...]] = [(0,)]
    for _ in range(draw(st.integers(1, 18))):
        # Mostly on one of the newest, so that branches grow long enough to overtake each other.
        parent = paths[-1 - min(draw(st.integers(0, 6)) // 2, len(paths) - 1)]
        path = (*parent, draw(st.integers(0, 1)))
        if path not in paths:
            paths.append(path)
    return paths


class Model:
    """The rule in its plainest form: the first proved block with most blocks below it."""

    def __init__(self) -> None:
        self.tip: tuple[int, ...] = ()
        self.proved: set[tuple[int, ...]] = set()

    def prove(self, path: tuple[int, ...]) -> None:
        self.proved.add(path)

    def candidates(self) -> set[tuple[int, ...]]:
        """Paths all of whose blocks were proved, if they are longer than the tip; else the tip."""
        whole = {p for p in self.proved if all(p[: n + 1] in self.proved for n in range(len(p)))}
        longest = max((len(path) for path in whole), default=0)
        if longest <= len(self.tip):
            return {self.tip}
        return {path for path in whole if len(path) == longest}


def hash_at(path: tuple[int, ...]) -> bytes:
    return block_at(path).hash if path else REGTEST.genesis_hash


def give_headers(rig: Rig, path: tuple[int, ...], source_index: int) -> None:
    """Bring a header as a peer does: asked for what is unknown below it, it brings that too."""
    source = SOURCES[source_index]
    outcome = rig.intake.on_headers(source, [block_at(path).header])
    if outcome.unknown_parent is not None:
        way = [block_at(path[:height]).header for height in range(1, len(path) + 1)]
        outcome = rig.intake.on_headers(source, way)
    assert outcome.unknown_parent is None
    assert not outcome.punish


def give_block(rig: Rig, path: tuple[int, ...], source_index: int) -> None:
    source = SOURCES[source_index]
    outcome = rig.intake.on_block(source, block_at(path).raw)
    if outcome.verdict is Verdict.ORPHAN:
        give_headers(rig, path, source_index)
        outcome = rig.intake.on_block(source, block_at(path).raw)
    assert outcome.verdict in (Verdict.ACCEPTED, Verdict.DUPLICATE)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), paths=trees())
def test_the_tip_is_the_models_after_every_arrival(
    data: st.DataObject, paths: list[tuple[int, ...]]
) -> None:
    kinds = st.sampled_from(["headers", "block", "block", "block", "wrong", "restart"])
    arrivals = data.draw(
        st.lists(st.tuples(kinds, st.sampled_from(paths), st.integers(0, 2)), max_size=40)
    )
    arrivals += [("block", path, 0) for path in data.draw(st.permutations(paths))]
    with rigs() as made, tempfile.TemporaryDirectory() as folder:
        rig = made.start(directory=Path(folder))
        give_block(rig, paths[0], 0)
        model = Model()
        model.prove(paths[0])
        model.tip = paths[0]
        start = REGTEST.genesis_hash
        published: dict[bytes, int] = {}
        headers: list[bytes] = []
        for kind, path, source_index in arrivals:
            frames = rig.frames()
            if kind == "restart":
                made.crash(rig)
                rig = made.start(directory=Path(folder))
            elif kind == "headers":
                give_headers(rig, path, source_index)
            elif kind == "wrong":
                rig.intake.on_block(SOURCES[source_index], with_wrong_witness(block_at(path)))
            else:
                give_block(rig, path, source_index)
                model.prove(path)
            frames += rig.frames()
            headers += hashes(frames, Kind.HEADER)
            for frame in frames:
                if frame.kind is Kind.BLOCK:
                    assert frame.hash in headers, "a header goes before its body"
                    assert frame.hash not in published, "a block goes out once"
                    published[frame.hash] = frame.sequence
                elif isinstance(frame.payload, Tip) and frame.payload.action is TipAction.CONNECTED:
                    assert frame.payload.block_sequence == published[frame.hash]
            start = replay_tips(start, frames)
            assert start == rig.intake.tip.hash
            candidates = {hash_at(each): each for each in model.candidates()}
            assert start in candidates
            model.tip = candidates[start]
        assert len(headers) == len(set(headers))
        assert len(model.tip) == max(len(path) for path in paths)
        assert set(published) == {block_at(path).hash for path in paths}
