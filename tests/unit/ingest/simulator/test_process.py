"""The simulation mines on its schedule, reorganises on request, and its process stops cleanly."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from p2p_client import P2PClient
from peers.nodes import free_port

from bitcoin_sprint.chains import network
from bitcoin_sprint.config import load
from bitcoin_sprint.config.schema import Config, SimConfig
from bitcoin_sprint.errors import ConfigError, HostError
from bitcoin_sprint.ingest import p2p_messages as p2p
from bitcoin_sprint.ingest.simulator import process
from bitcoin_sprint.ingest.simulator.blocks import WEIGHT_MAX
from bitcoin_sprint.ingest.simulator.process import Simulation, main
from bitcoin_sprint.metrics import CountersView

REGTEST = network("regtest")


def sim_config(**changes: Any) -> SimConfig:
    values = {
        "enabled": True,
        "port": 18_555,
        "interval_ns": 20_000_000,
        "transactions_min": 20,
        "transactions_max": 40,
        "reorg_every": 0,
        "reorg_depth_max": 3,
        "seed": 1,
        **changes,
    }
    return msgspec.convert(values, SimConfig)


def whole_config(**sim: Any) -> Config:
    config = load(None, {}, {}, None)
    return msgspec.structs.replace(config, network="regtest", sim=sim_config(**sim))


@asynccontextmanager
async def running(sim: SimConfig) -> AsyncIterator[Simulation]:
    simulation = Simulation(sim)
    simulation.prepare()
    await simulation.listen(0)
    mining = asyncio.get_running_loop().create_task(simulation.run())
    try:
        yield simulation
    finally:
        mining.cancel()
        await simulation.close()


async def test_transactions_are_announced_before_the_block_that_holds_them() -> None:
    async with running(sim_config()) as simulation:
        port = simulation.nodes[0].port
        async with P2PClient(REGTEST, port) as client:
            await client.expect(p2p.Headers)
            announced = []
            while not isinstance(message := await client.read(), p2p.Headers):
                if isinstance(message, p2p.Inv):
                    announced += [item.hash for item in message.items]
            (header,) = message.headers
            block = simulation.chain.body(REGTEST.block_hash(header))
    assert block is not None
    assert 20 <= len(announced) <= 40
    transactions = [simulation.shelf.get(each) for each in announced]
    assert all(each is not None and each.raw in block for each in transactions)


async def test_at_full_speed_its_peers_set_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SETTLE_S", 60.0)
    async with running(sim_config(interval_ns=0)) as simulation:
        for _ in range(100):
            await asyncio.sleep(0)
        assert simulation.counts["blocks"] == 0, "nobody is there"
        async with P2PClient(REGTEST, simulation.nodes[0].port) as client:
            blocks = 0
            while blocks < 5:
                message = await client.read()
                if isinstance(message, p2p.Ping):
                    client.send(p2p.Pong(message.nonce))
                blocks += len(message.headers) if isinstance(message, p2p.Headers) else 0
            await client.expect(p2p.Ping)
            counts = dict(simulation.counts)
            for _ in range(100):
                await asyncio.sleep(0)
            assert simulation.counts == counts, "its ping is not answered yet"


async def test_reorgs_come_by_themselves_and_stay_within_their_depth() -> None:
    async with running(sim_config(interval_ns=2_000_000, reorg_every=4)) as simulation:
        async with asyncio.timeout(30):
            while simulation.counts["reorgs"] < 5:
                await asyncio.sleep(0)
    assert simulation.counts["blocks"] >= 5 * 2


async def test_several_nodes_serve_the_same_chain() -> None:
    async with running(sim_config()) as simulation:
        second = await simulation.listen(0)
        async with P2PClient(REGTEST, second.port) as client:
            (header,) = (await client.expect(p2p.Headers)).headers
            (block,) = await client.blocks([REGTEST.block_hash(header)])
        assert block[:80] == header


async def test_a_reorg_and_a_full_block_come_on_request() -> None:
    simulation = Simulation(sim_config(transactions_max=0, transactions_min=0))
    simulation.prepare()
    simulation.request_reorg()
    assert len(simulation.step()) >= 2
    simulation.request_full_block()
    (block,) = simulation.step()
    assert block.weight == WEIGHT_MAX
    assert simulation.snapshot()["reorgs"] == 1


def test_the_same_seed_and_clock_make_the_same_blocks() -> None:
    tips = []
    for _ in range(2):
        simulation = Simulation(sim_config(reorg_every=3), clock=lambda: 1_760_000_000.0)
        simulation.prepare()
        for count in range(20):
            simulation.add_transactions(count)
            simulation.step()
        tips.append(simulation.chain.tip)
    assert tips[0] == tips[1]


async def test_a_taken_port_is_the_hosts_refusal() -> None:
    first, second = Simulation(sim_config()), Simulation(sim_config())
    try:
        port = (await first.listen(0)).port
        with pytest.raises(HostError, match=rf"sim\.port = {port}: cannot listen on 127"):
            await second.listen(port)
    finally:
        await first.close()


def test_contradicting_bounds_are_named() -> None:
    with pytest.raises(ConfigError, match=r"sim\.transactions_min: 50 is above .*, 40"):
        Simulation(sim_config(transactions_min=50))


def test_another_network_is_refused() -> None:
    config = msgspec.structs.replace(whole_config(), network="main")
    with pytest.raises(ConfigError, match="regtest"):
        main(config)


CHILD = """
import sys
from bitcoin_sprint.config import Config
from bitcoin_sprint.ingest.simulator.process import main
main(Config.decode(sys.stdin.buffer.read()))
"""


async def test_the_process_obeys_its_signals(tmp_path: Path) -> None:
    config = whole_config(port=free_port(), interval_ns=50_000_000)
    instance = f"t{os.getpid()}-sim"
    config = msgspec.structs.replace(config, data_dir=str(tmp_path), instance=instance)
    # The headers of a chain that ended with its node: the new chain would be a fork of it.
    config.headers_path.write_bytes(b"the run before")
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE)
    try:
        assert child.stdin is not None
        child.stdin.write(config.encode())
        child.stdin.close()
        await listening(config.sim.port, child)
        assert not config.headers_path.exists()
        async with P2PClient(REGTEST, config.sim.port) as client:
            await client.expect(p2p.Headers)
            os.kill(child.pid, signal.SIGUSR1)
            while len((await client.expect(p2p.Headers)).headers) < 2:
                pass
            async with asyncio.timeout(20):
                while not (counters := counted(instance))["reorgs"]:
                    await asyncio.sleep(0.02)
        assert counters["blocks"] >= 2
        assert counters["peers"] == counters["handshakes"] == 1
        assert counters["height"] > 100
        child.terminate()
        assert await asyncio.to_thread(child.wait, 10) == 0
    finally:
        child.kill()
        child.wait()


def counted(instance: str) -> dict[str, int]:
    view = CountersView.attach(instance, "sim")
    try:
        counters: dict[str, int] = view.snapshot()["counters"]
    finally:
        view.close()
    return counters


async def listening(port: int, child: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(20):
        while child.poll() is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
    raise AssertionError("the simulator ended at its start")
