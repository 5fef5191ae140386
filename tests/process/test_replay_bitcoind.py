"""Block files as Bitcoin Core writes them, obscured and not, replayed by the whole engine."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from intake_rig import FILES, Rigs, hashes, moves, rigs
from peers.fixtures import NodeStarter
from peers.nodes import Bitcoind
from peers.spender import Spender

from bitcoin_sprint.chains import network
from bitcoin_sprint.frames import Kind
from bitcoin_sprint.ingest.replay import ReplayFeed

REGTEST = network("regtest")


def blocks_folder(node: Bitcoind) -> Path:
    return node.directory / "regtest" / "blocks"


def replay(*arguments: object, code: int) -> dict:  # type: ignore[type-arg]
    """Run ``sprint replay --json``; its last line of output."""
    command = ["bitcoin_sprint.control.cli", "replay", "--network", "regtest", "--json"]
    ended = subprocess.run(
        [sys.executable, "-m", *command, "--set", "ring.blocks_arena=32MiB", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    assert not list(Path("/dev/shm").glob(f"sprint.*-{os.getpid()}.*"))
    summary: dict = json.loads(ended.stdout.splitlines()[-1])  # type: ignore[type-arg]
    return summary | {"log": ended.stderr}


@pytest.fixture
def start() -> Iterator[Rigs]:
    with rigs() as made:
        yield made


@pytest.mark.parametrize("obscured", [True, False], ids=["blocksxor=1", "blocksxor=0"])
async def test_a_nodes_folder_is_replayed_while_the_node_runs_and_after_a_torn_write(
    bitcoind: NodeStarter[Bitcoind], start: Rigs, obscured: bool
) -> None:
    node = bitcoind.start([f"-blocksxor={int(obscured)}"])
    spender = Spender(node)
    spender.mine_coins(5)
    for _ in range(5):
        spender.send()
        node.mine()
    stale = node.rpc("getbestblockhash")
    node.rpc("invalidateblock", stale)
    node.rpc("setmocktime", int(time.time()) + 60)  # else it mines that very block again
    node.mine(2)
    folder = blocks_folder(node)
    assert any((folder / "xor.dat").read_bytes()) == obscured
    content = (folder / "blk00000.dat").read_bytes()
    assert content.endswith(bytes(1 << 20)), "Core allocates ahead"

    rig = start.start(arena_bytes=64 << 20, network=REGTEST)
    rig.unix_time = time.time()
    feed = ReplayFeed(rig.intake, FILES, REGTEST, [folder])
    await feed.run()
    figures = feed.snapshot()["progress"]
    blocks = 1 + 105 + 5 + 2  # the genesis and the stale one too
    assert figures["accepted"] == figures["blocks"] == blocks
    assert figures["txs"] == blocks + 5 + 1  # what the stale one held was mined again
    assert (figures["damaged"], figures["torn"], figures["refused"]) == (0, 0, 0)
    assert rig.intake.tip.hash[::-1].hex() == node.rpc("getbestblockhash")
    assert stale in {hash[::-1].hex() for hash in hashes(rig.frames(), Kind.BLOCK)}


def test_a_copy_that_breaks_off_and_is_damaged_costs_those_blocks_alone(
    bitcoind: NodeStarter[Bitcoind], tmp_path: Path
) -> None:
    node = bitcoind.start(["-blocksxor=1"])
    node.mine(60)
    node.shut_down()
    folder = tmp_path / "blocks"
    shutil.copytree(blocks_folder(node), folder)
    whole = replay(folder, code=0)
    assert (whole["blocks"], whole["accepted"], whole["txs"], whole["done"]) == (61, 61, 61, True)
    assert whole["bytes"] == (folder / "blk00000.dat").stat().st_size

    file = folder / "blk00000.dat"
    content = bytearray(file.read_bytes().rstrip(b"\0"))
    content[5_000:5_010] = bytes(10)
    content[-100:] = bytes(100_000)
    file.write_bytes(content)
    hurt = replay(folder, code=1)
    assert hurt["torn"] == 1
    assert hurt["damaged"] + sum(hurt["refused"].values()) == 1
    assert 57 <= hurt["accepted"] <= 59
    assert "still being written" in hurt["log"]
    assert hurt["log"].count('"level":"warning"') == 1


async def test_blocks_that_a_node_stored_out_of_order_come_in_order(
    bitcoind: NodeStarter[Bitcoind], start: Rigs
) -> None:
    miner, node = bitcoind.start(), bitcoind.start()
    mined = miner.mine(40)
    raws = [bytes.fromhex(miner.rpc("getblock", hash, 0)) for hash in mined]
    for raw in raws:
        node.rpc("submitheader", raw[:80].hex())
    for raw in random.Random(3).sample(raws, len(raws)):
        node.rpc("submitblock", raw.hex())
    assert node.rpc("getbestblockhash") == mined[-1]

    rig = start.start(arena_bytes=64 << 20, network=REGTEST)
    rig.unix_time = time.time()
    feed = ReplayFeed(rig.intake, FILES, REGTEST, [blocks_folder(node)])
    async with asyncio.timeout(20):
        await feed.run()
    frames = rig.frames()
    assert [hash[::-1].hex() for hash in hashes(frames, Kind.BLOCK)[1:]] == mined
    assert [(step, hash[::-1].hex()) for step, hash in moves(frames)] == [
        ("C", hash) for hash in mined
    ]


def test_another_network_is_one_line_however_many_files(
    bitcoind: NodeStarter[Bitcoind], tmp_path: Path
) -> None:
    node = bitcoind.start()
    node.mine(3)
    node.shut_down()
    for number in range(3):
        shutil.copy(blocks_folder(node) / "blk00000.dat", tmp_path / f"blk0000{number}.dat")
    shutil.copy(blocks_folder(node) / "xor.dat", tmp_path)
    summary = replay(tmp_path, "--network", "signet", code=1)
    assert (summary["files"], summary["files_failed"], summary["blocks"]) == (3, 3, 0)
    assert summary["log"].count("holds blocks of regtest, network is 'signet'") == 1
