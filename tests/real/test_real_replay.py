"""Every recorded block file goes through replay and the intake, and out of the ring whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import recorded
from intake_rig import FILES, Rigs, rigs
from recorded import BLOCKS, FRAMED, needs_data

from bitcoin_sprint.chains import network
from bitcoin_sprint.frames import Kind
from bitcoin_sprint.ingest.replay import ReplayFeed

pytestmark = needs_data


@pytest.fixture
def start() -> Iterator[Rigs]:
    with rigs() as made:
        yield made


@pytest.mark.parametrize("name", ["main", "testnet3"])
async def test_single_blocks_are_accepted_with_their_hash_and_height(
    start: Rigs, name: str
) -> None:
    net = network(name)
    rig = start.start(arena_bytes=64 << 20, network=net)
    known = [each for each in BLOCKS if each.network == name]
    files = [recorded.path(f"bitcoin/{each.file}") for each in known]
    feed = ReplayFeed(rig.intake, FILES, net, files)
    await feed.run()
    assert feed.snapshot()["progress"]["accepted"] == len(known)
    frames = [frame for frame in rig.frames() if frame.kind is Kind.BLOCK]
    assert [frame.hash[::-1].hex() for frame in frames] == [each.hash for each in known]
    for frame, each in zip(frames, known, strict=True):
        raw = recorded.block(each)
        assert isinstance(frame.payload, bytes)
        assert frame.payload[: len(raw)] == raw
        if frame.height >= 0:
            assert frame.height == each.height


@pytest.mark.parametrize("file", FRAMED)
async def test_runs_are_accepted_whole_and_in_order(start: Rigs, file: str) -> None:
    net = network("main")
    rig = start.start(arena_bytes=64 << 20, network=net)
    feed = ReplayFeed(rig.intake, FILES, net, [recorded.path(f"bitcoin/{file}")])
    await feed.run()
    counts = feed.snapshot()["progress"]
    raws = list(recorded.framed(file))
    assert counts["blocks"] == len(raws) == FRAMED[file]
    assert counts["accepted"] == len(raws)
    frames = [frame for frame in rig.frames() if frame.kind is Kind.BLOCK]
    assert [frame.hash for frame in frames] == [net.block_hash(raw) for raw in raws]
