"""The simulator at work: blocks and transactions in time, served on loopback, until stopped.

Blocks follow an absolute schedule, so that a slow moment does not stretch the mean interval; the
transactions of a block are made and announced in small portions before it. With an interval of 0
the peers set the pace: each portion and each block waits until they have taken the one before. What
it counts is in its counters (``sprint stat sim``). A run of ``main`` obeys
SIGTERM and SIGINT (stop), SIGUSR1 (a reorg now) and SIGUSR2 (the next block at 4,000,000 weight
units).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import uvloop

from bitcoin_sprint.chains import network
from bitcoin_sprint.config import Config
from bitcoin_sprint.config.schema import SimConfig
from bitcoin_sprint.errors import ConfigError, HostError
from bitcoin_sprint.ingest.simulator.blocks import WEIGHT_MAX, SimBlock
from bitcoin_sprint.ingest.simulator.chain import Reorg, SimChain
from bitcoin_sprint.ingest.simulator.node import TRANSACTIONS_KEPT, SimNode, TransactionShelf
from bitcoin_sprint.metrics import Counters
from bitcoin_sprint.ports import refusal

PORTION: Final = 10
"""Transactions made and announced at a time: few, as on a network, where they come one by one."""
FULL_SPEED_PORTION: Final = 100
SETTLE_S: Final = 2.0
"""How long, at full speed, a peer that doesn't answer is waited for."""
TRANSACTIONS_KEPT_MIN: Final = 5_000
BODIES_BYTES_MIN: Final = 16 << 20
BODIES_BYTES_MAX: Final = 128 << 20
KEPT_BLOCKS: Final = 24
"""Of so many largest blocks the bodies are kept, and half as many blocks' transactions."""
COUNTERS: Final = (
    "blocks",
    "transactions",
    "reorgs",
    "height",
    "mempool",
    "peers",
    "handshakes",
    "peers_dropped",
    "blocks_served",
    "transactions_served",
)
COINS_FACTOR: Final = 5
"""Spendable coins kept, in multiples of the transactions of the largest block."""
COINS_MIN: Final = 2_000

_REPORT_S = 1.0
_NOBODY_S = 0.02
_JITTER = 0.2
_TRANSACTIONS_OF_FULL_BLOCK = 4_000
_BYTES_OF_TRANSACTION = 500
_ANNOUNCED_BY = 0.85
"""Part of a block's interval within which its transactions are announced."""

_log = logging.getLogger(__name__)


class Simulation:
    """A simulated chain and the nodes that serve it. One asyncio thread."""

    def __init__(
        self,
        sim: SimConfig,
        *,
        clock: Callable[[], float] = time.time,
        bodies_max_bytes: int | None = None,
    ) -> None:
        """``clock`` gives the time, in seconds, that new blocks carry; ``bodies_max_bytes``: None
        for what ``KEPT_BLOCKS`` take."""
        if sim.transactions_min > sim.transactions_max:
            raise ConfigError(
                f"sim.transactions_min: {sim.transactions_min} is above sim.transactions_max, "
                f"{sim.transactions_max}"
            )
        self._sim = sim
        self._clock = clock
        self._rng = random.Random(sim.seed ^ 0x5350_5249_4E54)
        largest = min(sim.transactions_max, _TRANSACTIONS_OF_FULL_BLOCK)
        if bodies_max_bytes is None:
            wanted = KEPT_BLOCKS * largest * _BYTES_OF_TRANSACTION
            bodies_max_bytes = min(BODIES_BYTES_MAX, max(BODIES_BYTES_MIN, wanted))
        self.chain = SimChain(
            network("regtest"),
            seed=sim.seed,
            coins_target=max(COINS_MIN, largest * COINS_FACTOR),
            reorg_depth_max=sim.reorg_depth_max,
            bodies_max_bytes=bodies_max_bytes,
        )
        kept = KEPT_BLOCKS // 2 * largest
        self.shelf = TransactionShelf(max(TRANSACTIONS_KEPT_MIN, min(TRANSACTIONS_KEPT, kept)))
        self.nodes: list[SimNode] = []
        self._reorg_in = self._draw_reorg()
        self._full_next = False
        self.counts = {"blocks": 0, "transactions": 0, "reorgs": 0}

    def prepare(self) -> None:
        """Mine the chain's beginning, up to now, so that there are coins to spend."""
        self.chain.prepare(int(self._clock()) - 1)

    async def listen(self, port: int, host: str = "127.0.0.1") -> SimNode:
        """One more node. Raises HostError where the port can't be had."""
        node = SimNode(self.chain, self.shelf)
        try:
            await node.start(host, port)
        except OSError as error:
            raise HostError(refusal("sim.port", host, port, error)) from error
        self.nodes.append(node)
        return node

    async def close(self) -> None:
        for node in self.nodes:
            await node.close()

    async def run(self) -> None:
        """Mine on schedule until cancelled."""
        if not self._sim.interval_ns:
            await self._run_at_full_speed()
        loop = asyncio.get_running_loop()
        interval = self._sim.interval_ns / 1e9
        due = loop.time()
        while True:
            start = due
            due += interval * (1 - _JITTER + 2 * _JITTER * self._rng.random())
            await self._announce(start, due - start)
            await asyncio.sleep(max(0.0, due - loop.time()))
            self.step()
            # After a stall (a suspended host) go on from now instead of catching up in a burst.
            due = max(due, loop.time() - interval)

    async def _run_at_full_speed(self) -> None:
        while True:
            while not any(node.is_heard for node in self.nodes):
                await asyncio.sleep(_NOBODY_S)
            left = self._transactions_of_next_block()
            while left > 0:
                self.add_transactions(min(FULL_SPEED_PORTION, left))
                left -= FULL_SPEED_PORTION
                await self._settle()
            self.step()
            await self._settle()

    async def _settle(self) -> None:
        """Wait until every peer has taken all that it was told."""
        await asyncio.gather(*(node.settle(SETTLE_S) for node in self.nodes))
        await asyncio.sleep(0)

    def step(self) -> Sequence[SimBlock]:
        """The next block, or the reorg that is due; mined and announced."""
        self._reorg_in -= 1
        if self._reorg_in == 0:
            self._reorg_in = self._draw_reorg()
            return self.reorganise(self._rng.randint(1, self._sim.reorg_depth_max)).connected
        weight = WEIGHT_MAX if self._full_next else None
        self._full_next = False
        return [self.mine(weight=weight)]

    def mine(self, *, weight: int | None = None) -> SimBlock:
        """Mine one block and announce it; ``weight`` as for ``SimChain.mine``."""
        block = self.chain.mine(int(self._clock()), weight=weight)
        self.counts["blocks"] += 1
        self._announce_blocks([block])
        return block

    def reorganise(self, depth: int) -> Reorg:
        """Replace the newest ``depth`` blocks and announce what came instead."""
        reorg = self.chain.reorganise(depth, int(self._clock()))
        self.counts["blocks"] += len(reorg.connected)
        self.counts["reorgs"] += 1
        self._announce_blocks(reorg.connected)
        return reorg

    def add_transactions(self, count: int) -> int:
        """Make transactions and announce them; how many could be made."""
        made = self.chain.make_transactions(count)
        self.shelf.add(made)
        self.counts["transactions"] += len(made)
        for node in self.nodes:
            if made:
                node.announce_transactions(made)
        return len(made)

    def request_reorg(self) -> None:
        """Make the next step a reorg."""
        self._reorg_in = 1

    def request_full_block(self) -> None:
        """Make the next plain block one of 4,000,000 weight units."""
        self._full_next = True

    def snapshot(self) -> Mapping[str, int]:
        """Counts so far, those of all nodes added up."""
        totals = dict(
            self.counts,
            height=self.chain.height,
            mempool=len(self.chain.mempool),
            peers=sum(len(node.peers) for node in self.nodes),
        )
        for node in self.nodes:
            for name, value in node.counts.items():
                totals[name] = totals.get(name, 0) + value
        return totals

    async def _announce(self, start: float, seconds: float) -> None:
        """The transactions of the next block, spread over most of its interval."""
        loop = asyncio.get_running_loop()
        total = self._transactions_of_next_block()
        portions = -(-total // PORTION)
        for index in range(portions):
            at = start + seconds * _ANNOUNCED_BY * (index + 0.5) / portions
            await asyncio.sleep(max(0.0, at - loop.time()))
            self.add_transactions(min(PORTION, total - index * PORTION))

    def _transactions_of_next_block(self) -> int:
        """How many more transactions the next block is to find waiting."""
        total = self._rng.randint(self._sim.transactions_min, self._sim.transactions_max)
        return total - len(self.chain.mempool)

    def _announce_blocks(self, blocks: Sequence[SimBlock]) -> None:
        for node in self.nodes:
            node.announce_blocks(blocks)

    def _draw_reorg(self) -> int:
        """In how many steps the next reorg is; 0: never."""
        every = self._sim.reorg_every
        return self._rng.randint((every + 1) // 2, every + every // 2) if every else 0


def main(config: Config, ready: Callable[[], None] = lambda: None) -> None:
    """Run the simulator until SIGTERM; ``ready`` is called once it can be connected to.

    Raises ConfigError where the network is not regtest, HostError where the port is taken.
    """
    if config.network != "regtest":
        raise ConfigError(f"network: the simulator needs regtest, not {config.network!r}")
    # Our chain begins anew: ingest would hold its blocks back as a fork with less work than the
    # chain of the run before, until it had overtaken that.
    with contextlib.suppress(OSError):
        config.headers_path.unlink()
    uvloop.run(_run(config, ready))


async def _run(config: Config, ready: Callable[[], None]) -> None:
    simulation = Simulation(config.sim)
    simulation.prepare()
    with contextlib.closing(Counters.create(config.instance, "sim", COUNTERS)) as counters:
        await simulation.listen(config.sim.port)
        _log.info("simulator mines regtest on port %d", config.sim.port)
        await _mine(simulation, counters, ready)


async def _mine(simulation: Simulation, counters: Counters, ready: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    mining = loop.create_task(simulation.run())
    reporting = loop.create_task(_report(simulation, counters))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, mining.cancel)
    ready()
    loop.add_signal_handler(signal.SIGUSR1, simulation.request_reorg)
    loop.add_signal_handler(signal.SIGUSR2, simulation.request_full_block)
    try:
        await mining
    except asyncio.CancelledError:
        _log.info("simulator stopped: %s", dict(simulation.snapshot()))
    finally:
        reporting.cancel()
        await simulation.close()


async def _report(simulation: Simulation, counters: Counters) -> None:
    """Show that we live, and what was mined, until cancelled."""
    while True:
        counters.heartbeat()
        for name, value in simulation.snapshot().items():
            counters[name].set(value)
        await asyncio.sleep(_REPORT_S)
