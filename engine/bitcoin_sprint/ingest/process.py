"""The ingest process: feeds, intake and rings in one thread, until SIGTERM.

It is the only writer of both rings and of the header chain on disk. A clean stop ends the rings;
a killed process leaves them to its successor, which goes on at the next frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import uvloop

from bitcoin_sprint.chains import Network, network
from bitcoin_sprint.config import Config
from bitcoin_sprint.errors import ConfigError, HostError
from bitcoin_sprint.ingest.block_frames import BlockFrames
from bitcoin_sprint.ingest.body_fetcher import BodyFetcher
from bitcoin_sprint.ingest.feed import Feed
from bitcoin_sprint.ingest.intake import Intake
from bitcoin_sprint.ingest.intake_counters import COUNTERS, HISTOGRAMS, IntakeCounters
from bitcoin_sprint.ingest.pace import Pace
from bitcoin_sprint.ingest.source_figures import (
    FIGURES_PER_SOURCE_MAX,
    ConnectedWatch,
    SourceFigures,
)
from bitcoin_sprint.ingest.source_state import SourceState
from bitcoin_sprint.ingest.sources import SOURCES_MAX, SourceTable, build_feeds, node_sources
from bitcoin_sprint.ingest.transaction_frames import TransactionFrames
from bitcoin_sprint.metrics import Counters
from bitcoin_sprint.ring import Ring, RingOptions, Writer, plan
from bitcoin_sprint.validate import HeaderChain

HEARTBEAT_S: Final = 0.1
"""Between two signs of life in the rings, while there is that much to do."""
REPORT_S: Final = 1.0
FEED_RESTART_S: Final = 1.0
FEED_RESTART_MAX_S: Final = 60.0
FEED_HOLDS_S: Final = 5.0
"""How long a feed that broke must run before that is over."""
PRIVATE_MODE: Final = 0o600

_log = logging.getLogger(__name__)


class Rings:
    """Both rings of an instance, written by us. Closed by ``close``."""

    def __init__(self, config: Config, group: str | None) -> None:
        sizes = config.ring
        directory = Path(sizes.directory) if sizes.directory else None
        mode = sizes.mode if config.use_shared_memory else PRIVATE_MODE
        options = plan(
            config.instance,
            RingOptions(sizes.blocks_slots, sizes.blocks_arena_bytes),
            RingOptions(sizes.tx_slots, sizes.tx_arena_bytes),
            directory,
        )
        with contextlib.ExitStack() as made:
            self.blocks, self.tx = (
                made.enter_context(
                    Writer.create(
                        config.instance,
                        name,
                        slot_count=options[name].slot_count,
                        arena_bytes=options[name].arena_bytes,
                        network=config.network,
                        mode=mode,
                        group=group,
                        directory=directory,
                    )
                )
                for name in ("blocks", "tx")
            )
            self.own_blocks = made.enter_context(
                Ring.attach(config.instance, "blocks", directory=directory)
            )
            self._closing = made.pop_all()

    def heartbeat(self) -> None:
        """Show readers that we live."""
        self.blocks.heartbeat()
        self.tx.heartbeat()

    def set_source(self, index: int, name: str) -> None:
        """Enter a source into the tables of both rings."""
        self.blocks.set_source(index, name)
        self.tx.set_source(index, name)

    def close(self) -> None:
        """End the rings; their readers are told."""
        self._closing.close()


class Ingest:
    """Everything that the process owns, put together."""

    def __init__(self, config: Config, network: Network, rings: Rings, counters: Counters) -> None:
        self._rings = rings
        self._counters = counters
        table = SourceTable(rings.set_source)
        self.chain = open_chain(config, network)
        self._pace = Pace()
        fetcher = BodyFetcher(on_request=self._pace.hurry)
        self._clock = clock = asyncio.get_running_loop().time
        nodes = node_sources(config, table)
        self.intake = Intake(
            network,
            self.chain,
            BlockFrames(rings.blocks, rings.own_blocks, network),
            transaction_frames(config, rings.tx, network, clock),
            fetcher,
            IntakeCounters(counters),
            nodes=[source for source in nodes if source.trusted],
            clock=clock,
            on_wait=self._pace.hurry,
        )
        self.feeds = build_feeds(config, network, self.intake, table, nodes)
        for feed in self.feeds:
            fetcher.add_feed(feed)
        self._figures = SourceFigures(counters, self.feeds)
        self._connected = ConnectedWatch(self.feeds, is_heard=config.relay.level != "merkle")

    async def tick(self) -> None:
        """Let time pass for intake, rings and counters, until cancelled."""
        beat_at = report_at = self._clock()
        while True:
            self.intake.tick()
            now = self._clock()
            if now >= beat_at:
                beat_at = now + HEARTBEAT_S
                self._rings.heartbeat()
            if now >= report_at:
                report_at = now + REPORT_S
                self._counters.heartbeat()
                self._figures.report()
                level_stands = self._connected.look()
                self._counters["connected_up"].set(level_stands)
            await self._pace.pause(busy=self.intake.waits)

    async def run_feed(self, feed: Feed) -> None:
        """Run a feed; one that breaks by a fault of ours is run again, the others never notice."""
        episode = self._figures.broken(feed)
        loop = asyncio.get_running_loop()
        wait_s = FEED_RESTART_S
        while True:
            holds = loop.call_later(FEED_HOLDS_S, episode.end)
            try:
                await feed.run()
                return
            except Exception as error:
                if episode.state is None:
                    _log.exception("feed broke", extra={"source": feed.name})
                    wait_s = FEED_RESTART_S
                what = f"{type(error).__name__}: {error}"
                episode.fail(SourceState.BROKEN, f"its feed broke ({what}) and is started again")
            finally:
                holds.cancel()
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, FEED_RESTART_MAX_S)


def transaction_frames(
    config: Config, writer: Writer, network: Network, clock: Callable[[], float]
) -> TransactionFrames:
    """Make the writing side of the ring ``tx`` as it is configured."""
    return TransactionFrames(
        writer,
        network,
        clock,
        remembered_max=config.ingest.transactions_remembered,
        per_s_max=config.ingest.peer_transactions_per_s,
    )


def main(config: Config, ready: Callable[[], None]) -> None:
    """Run ingest until SIGTERM; ``ready`` is called once the rings are there and feeds run.

    Raises ConfigError, HostError or WriterActive, each saying what to change.
    """
    uvloop.run(_run(config, ready))


def header_file(config: Config) -> Path:
    """Where the header chain of this network is kept; its folder is made if need be."""
    folder = config.headers_path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"data_dir: cannot make {folder}: {error.strerror}") from error
    return config.headers_path


def open_chain(config: Config, network: Network) -> HeaderChain:
    """The header chain from its file; from memory alone where the disk refuses that.

    Raises ConfigError for another network's file, WriterActive where another instance has it.
    """
    try:
        return HeaderChain.open(network, header_file(config))
    except HostError as error:
        _log.warning("%s; the header chain is kept in memory, and asked for at each start", error)
        return HeaderChain.open(network)


@contextlib.contextmanager
def _closing_chain(chain: HeaderChain) -> Iterator[None]:
    try:
        yield
    finally:
        try:
            chain.close()
        except HostError as error:
            _log.warning("%s; the newest are asked for again at the next start", error)


async def _run(config: Config, ready: Callable[[], None]) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    with _owned(config) as ingest:
        tasks = [loop.create_task(ingest.run_feed(feed)) for feed in ingest.feeds]
        ticking = loop.create_task(ingest.tick())
        stopping = loop.create_task(stopped.wait())
        _log.info("ingest runs", extra={"sources": len(tasks), "network": config.network})
        if not tasks:
            _log.warning("there is no source: name a node in ingest.p2p or ingest.zmq")
        ready()
        try:
            # A fault of the intake itself ends the process: its successor takes the rings over.
            await asyncio.wait((ticking, stopping), return_when=asyncio.FIRST_COMPLETED)
            if ticking.done():
                ticking.result()
        finally:
            for task in (*tasks, ticking, stopping):
                task.cancel()
            await asyncio.gather(*tasks, ticking, stopping, return_exceptions=True)


@contextlib.contextmanager
def _owned(config: Config) -> Iterator[Ingest]:
    """Make rings, counters, chain and feeds; give them up again in the opposite order."""
    group = config.ring.group or None
    known = network(config.network)
    rings = Rings(config, group)
    with contextlib.closing(rings):
        counters = Counters.create(
            config.instance,
            "ingest",
            COUNTERS,
            HISTOGRAMS,
            {"network": config.network},
            mode=config.ring.mode if config.use_shared_memory else PRIVATE_MODE,
            group_id=_group_id(group),
            spare_counters=SOURCES_MAX * FIGURES_PER_SOURCE_MAX,
        )
        with contextlib.closing(counters):
            ingest = Ingest(config, known, rings, counters)
            with _closing_chain(ingest.chain):
                yield ingest


def _group_id(group: str | None) -> int:
    if group is None:
        return -1
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"ring.group: there is no group {group!r} on this host") from None
