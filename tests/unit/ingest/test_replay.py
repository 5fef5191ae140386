"""Replay goes through every file, in order, whatever some of them hold."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from pathlib import Path

import pytest
from intake_rig import FILES
from node_sink import NodeSink
from regtest_blocks import GENESIS, REGTEST, START_TIME, Parent, chain_of, next_block

from bitcoin_sprint.errors import ConfigError
from bitcoin_sprint.ingest import replay
from bitcoin_sprint.ingest.replay import ReplayFeed
from bitcoin_sprint.ingest.simulator.blocks import SimBlock

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


def sha256d(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def time_of(block: SimBlock) -> int:
    return int.from_bytes(block.raw[68:72], "little")


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(replay.asyncio, "sleep", made.sleep)
    return made


@pytest.mark.parametrize(
    ("speed", "expected"),
    [
        (1.0, [0, 600, 600, 1_800]),  # the third block's time lies before the second's
        (60.0, [0, 10, 10, 30]),
        (0.0, [0, 0, 0, 0]),
    ],
)
async def test_blocks_come_at_the_pace_of_their_times(
    tmp_path: Path, clock: Clock, speed: float, expected: list[float]
) -> None:
    parent: SimBlock | Parent = GENESIS
    raws = []
    for seconds in (0, 600, 300, 1_800):
        parent = next_block(parent, time=START_TIME + seconds)
        raws.append(parent.raw)
    (tmp_path / "a").write_bytes(framed(*raws))
    sink = NodeSink(REGTEST)
    feed = ReplayFeed(sink, FILES, REGTEST, [tmp_path], speed=speed, delay_s=7, clock=clock)
    times: list[float] = []
    take = sink.on_block
    sink.on_block = lambda *words: (times.append(clock.now), take(*words))[1]  # type: ignore[method-assign]
    await feed.run()
    assert times == pytest.approx([1_007 + seconds for seconds in expected])
    assert feed.snapshot()["progress"]["elapsed_ms"] == round(1_000 * expected[-1])


async def test_a_damaged_time_holds_nothing_up(tmp_path: Path, clock: Clock) -> None:
    damaged = bytearray(BLOCKS[1].raw)
    damaged[71] ^= 0x80  # 68 years later
    while sha256d(damaged[:80])[-1] < 0x80:  # regtest's target is so easy that damage may meet it
        damaged[76] += 1
    (tmp_path / "a").write_bytes(framed(BLOCKS[0].raw, bytes(damaged), BLOCKS[1].raw))
    feed = ReplayFeed(NodeSink(REGTEST), FILES, REGTEST, [tmp_path], speed=60.0, clock=clock)
    await feed.run()
    progress = feed.snapshot()["progress"]
    assert progress["accepted"] == 2
    assert progress["refused"] == 1
    assert clock.now - 1_000 == pytest.approx((time_of(BLOCKS[1]) - time_of(BLOCKS[0])) / 60)


async def test_progress_is_in_the_log_now_and_then_and_counts_within_a_file(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "a").write_bytes(framed(*(block.raw for block in BLOCKS)))
    feed = ReplayFeed(NodeSink(REGTEST), FILES, REGTEST, [tmp_path], speed=100, clock=clock)
    seen = []
    take = feed._sink.on_block
    feed._sink.on_block = lambda *words: (seen.append(feed.snapshot()["progress"]), take(*words))[1]  # type: ignore[method-assign]
    await feed.run()
    # A block every 6 s, five times: the first at or after 10 s and 20 s have a line.
    assert sum(" s left" in line for line in caplog.messages) == 2
    done = [figures["bytes"] for figures in seen]
    assert done == sorted(set(done))
    assert done[-1] == seen[-1]["bytes_total"]
    assert seen[3]["eta_s"] > 0
    assert seen[3]["blocks"] == 3


async def test_of_many_bad_files_and_blocks_the_first_few_have_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for number in range(9):
        (tmp_path / f"no{number}").write_text("no block at all")
    wrong = [block.raw[:-1] + b"\x01" for block in BLOCKS]
    (tmp_path / "wrong").write_bytes(framed(*wrong, *wrong))
    feed = ReplayFeed(NodeSink(REGTEST), FILES, REGTEST, [tmp_path])
    await feed.run()
    assert sum("is no file of blocks" in line for line in caplog.messages) == 5
    assert sum("is refused" in line for line in caplog.messages) == 5
    assert "7 more blocks refused or damaged" in caplog.text
    assert "12 refused, 0 damaged, 9 files failed" in caplog.messages[-1]


def test_a_nodes_folder_given_for_its_blocks_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "blocks").mkdir()
    (tmp_path / "peers.dat").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"is a node's folder: name .*blocks instead"):
        ReplayFeed(NodeSink(REGTEST), FILES, REGTEST, [tmp_path])
