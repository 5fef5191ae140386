"""The ingest process against a simulated node: live, restarted, killed, stopped."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from ingest_engine import follow, running

from bitcoin_sprint.config import load
from bitcoin_sprint.ingest.simulator.node import SimNode
from bitcoin_sprint.ingest.simulator.process import Simulation
from bitcoin_sprint.ring import Ring

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])


@asynccontextmanager
async def simulated() -> AsyncIterator[tuple[Simulation, SimNode]]:
    """A simulated node with some history, that mines only when told."""
    config = load(None, {"network": "regtest", "sim.enabled": True, "sim.transactions_max": 50})
    simulation = Simulation(config.sim)
    simulation.prepare()
    node = await simulation.listen(0)
    try:
        yield simulation, node
    finally:
        await simulation.close()


async def test_blocks_and_reorganisations_of_a_live_node_reach_the_ring(tmp_path: Path) -> None:
    async with simulated() as (simulation, node):
        peer = f"127.0.0.1:{node.port}"
        async with running(tmp_path, **{"ingest.p2p": [peer]}) as engine:
            with (
                Ring.attach(engine.instance, "blocks") as ring,
                Ring.attach(engine.instance, "tx") as tx_ring,
            ):
                reader, tx_reader = ring.reader(start="oldest"), tx_ring.reader(start="oldest")
                tip = await follow(reader, b"", simulation.chain.tip)
                made = simulation.add_transactions(20)
                async with asyncio.timeout(20):
                    txids = {bytes((await tx_reader.next()).hash) for _ in range(made)}
                assert len(txids) == made
                for depth in (1, 3, 2):
                    simulation.mine()
                    simulation.mine()
                    simulation.mine()
                    tip = await follow(reader, tip, simulation.chain.tip)
                    simulation.reorganise(depth)
                    tip = await follow(reader, tip, simulation.chain.tip)
                assert ring.source_name(1) == f"p2p {peer}"
                assert reader.frames_lost == 0
                reader.close()
                tx_reader.close()
            async with asyncio.timeout(20):
                while not engine.counters().get(f"source.p2p {peer}.up"):
                    await asyncio.sleep(0.05)
            assert engine.counters()["transactions_published"] == made
            assert await engine.end(signal.SIGTERM) == 0
            assert engine.left_behind() == []


async def test_a_killed_process_is_succeeded_without_a_break(tmp_path: Path) -> None:
    async with simulated() as (simulation, node):
        peers = {"ingest.p2p": [f"127.0.0.1:{node.port}"]}
        async with running(tmp_path, **peers) as engine:
            with Ring.attach(engine.instance, "blocks") as ring:
                reader = ring.reader(start="oldest")
                tip = await follow(reader, b"", simulation.chain.tip)
                for _ in range(3):
                    assert await engine.end(signal.SIGKILL) == -signal.SIGKILL
                    simulation.mine()
                    simulation.reorganise(2)
                    await engine.start()
                    tip = await follow(reader, tip, simulation.chain.tip)
                assert ring.epoch == 4
                assert reader.frames_lost == 0
                assert not ring.ended
                assert await engine.end(signal.SIGTERM) == 0
                assert ring.ended
                reader.close()


async def test_the_header_chain_outlives_a_clean_stop(tmp_path: Path) -> None:
    async with simulated() as (simulation, node):
        peers = {"ingest.p2p": [f"127.0.0.1:{node.port}"]}
        for _ in range(2):
            async with running(tmp_path, **peers) as engine:
                with Ring.attach(engine.instance, "blocks") as ring:
                    reader = ring.reader(start="oldest")
                    await follow(reader, b"", simulation.chain.tip)
                    reader.close()
                assert await engine.end(signal.SIGTERM) == 0
    # Both runs began near the tip; only the first had to ask for all headers.
    assert (tmp_path / "regtest.headers").stat().st_size > 80 * simulation.chain.height


async def test_a_node_that_is_down_at_the_start_is_found_later(tmp_path: Path) -> None:
    async with simulated() as (simulation, node):
        port = node.port
        await node.close()
        async with running(tmp_path, **{"ingest.p2p": [f"127.0.0.1:{port}"]}) as engine:
            simulation.nodes.clear()
            await simulation.listen(port)
            with Ring.attach(engine.instance, "blocks") as ring:
                reader = ring.reader(start="oldest")
                await follow(reader, b"", simulation.chain.tip)
                reader.close()


async def test_a_second_ingest_of_an_instance_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        second = await engine.spawn()
        assert second.stderr is not None
        error = await second.stderr.read()
        assert await second.wait() == 3
        assert engine.instance in error.decode()
        assert await engine.end(signal.SIGTERM) == 0


async def test_a_data_folder_that_cannot_be_made_is_told_of_and_gone_without(
    tmp_path: Path,
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    async with running(blocked / "below") as engine:
        assert await engine.end(signal.SIGTERM) == 0
        assert engine.process is not None
        assert engine.process.stderr is not None
        async with asyncio.timeout(10):
            told = (await engine.process.stderr.read()).decode()
        assert "data_dir" in told
        assert "Traceback" not in told
        assert engine.left_behind() == []
