"""Replay goes through every file, in order, whatever some of them hold."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from intake_rig import FILES
from node_sink import NodeSink
from regtest_blocks import REGTEST, chain_of

from bitcoin_sprint.errors import ConfigError
from bitcoin_sprint.ingest.replay import ReplayFeed

BLOCKS = chain_of(6)


def framed(*raws: bytes) -> bytes:
    return b"".join(REGTEST.magic + len(raw).to_bytes(4, "little") + raw for raw in raws)


async def test_files_and_folders_are_replayed_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "b").write_bytes(framed(BLOCKS[2].raw, BLOCKS[3].raw))
    (folder / "a").write_bytes(BLOCKS[1].raw)
    first = tmp_path / "z"
    first.write_bytes(BLOCKS[0].raw)
    sink = NodeSink(REGTEST)
    feed = ReplayFeed(sink, FILES, REGTEST, [first, str(folder)])
    assert feed.snapshot()["state"] == "waiting"
    await feed.run()
    assert [outcome.hash for outcome in sink.block_outcomes] == [b.hash for b in BLOCKS[:4]]
    state = feed.snapshot()
    assert state["state"] == "done"
    assert state["progress"]["accepted"] == state["progress"]["blocks"] == 4
    assert state["progress"]["txs"] == 4
    assert state["progress"]["files"] == state["progress"]["files_total"] == 3
    assert state["progress"]["bytes"] == state["progress"]["bytes_total"]
    assert state["progress"]["done"] == 1
    assert not feed.can_fetch
    assert not await feed.fetch_block(BLOCKS[0].hash)


async def test_a_bad_file_and_a_bad_block_do_not_stop_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    wrong = bytearray(BLOCKS[1].raw)
    wrong[-1] ^= 1
    (tmp_path / "a").write_text("no block at all")
    (tmp_path / "b").write_bytes(bytes(wrong))
    (tmp_path / "c").write_bytes(framed(BLOCKS[0].raw, BLOCKS[0].raw) + b"noise")
    sink = NodeSink(REGTEST)
    feed = ReplayFeed(sink, FILES, REGTEST, [tmp_path])
    await feed.run()
    counts = feed.snapshot()["progress"]
    assert counts["files_failed"] == 1
    assert counts["damaged"] == 1
    assert counts["refused"] == counts["refused.bad-txnmrklroot"] == 1
    assert counts["duplicate"] == 1
    assert counts["accepted"] == 1
    assert "is no file of blocks" in caplog.text
    assert "b: the block at byte 0 is refused: bad-txnmrklroot" in caplog.text
    assert "damaged at byte" in caplog.text
    assert "3 blocks of 3 files" in caplog.text


async def test_others_get_their_turn_between_blocks(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(framed(*(block.raw for block in BLOCKS)))
    sink = NodeSink(REGTEST)
    feed = ReplayFeed(sink, FILES, REGTEST, [tmp_path])
    task = asyncio.get_running_loop().create_task(feed.run())
    seen = []
    while not task.done():
        seen.append(len(sink.block_outcomes))
        await asyncio.sleep(0)
    assert set(range(1, len(BLOCKS) + 1)) <= set(seen)


def test_a_path_that_is_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ingest\.replay: .*nothing can't be read: No such file"):
        ReplayFeed(NodeSink(REGTEST), FILES, REGTEST, [tmp_path / "nothing"])
    with pytest.raises(ConfigError, match="holds no files"):
        ReplayFeed(NodeSink(REGTEST), FILES, REGTEST, [tmp_path])
