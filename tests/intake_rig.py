"""An intake on real rings, with the clock in the test's hand."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from regtest_blocks import REGTEST, START_TIME

from bitcoin_sprint.chains import Network
from bitcoin_sprint.frames import Flag, Kind, Level, Mempool, Retract, Tip, TipAction
from bitcoin_sprint.ingest.block_frames import BlockFrames
from bitcoin_sprint.ingest.body_fetcher import BodyFetcher
from bitcoin_sprint.ingest.feed import Source, SourceKind
from bitcoin_sprint.ingest.intake import Intake
from bitcoin_sprint.ingest.intake_counters import COUNTERS, HISTOGRAMS, IntakeCounters
from bitcoin_sprint.ingest.transaction_frames import TransactionFrames
from bitcoin_sprint.metrics import Counters
from bitcoin_sprint.ring import Frame, Reader, Ring, Writer
from bitcoin_sprint.validate.header_chain import HeaderChain

PEER = Source(1, "peer-a", SourceKind.P2P)
OTHER_PEER = Source(2, "peer-b", SourceKind.P2P)
THIRD_PEER = Source(3, "peer-c", SourceKind.P2P)
NODE = Source(4, "node-a", SourceKind.ZMQ, trusted=True)
OTHER_NODE = Source(5, "node-b", SourceKind.ZMQ, trusted=True)
FILES = Source(6, "files", SourceKind.REPLAY)

Payload = bytes | Tip | Retract | Mempool


class Seen(msgspec.Struct, frozen=True):
    """A frame as a reader saw it, its payload taken apart."""

    sequence: int
    kind: Kind
    hash: bytes
    height: int
    level: Level
    flags: Flag
    source: int
    payload: Payload


class SilentFeed:
    """A feed that takes every request and delivers nothing, unless ``serves`` says no."""

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self.source = source
        self.can_fetch = True
        self.serves = True
        self.asked: list[bytes] = []

    async def run(self) -> None:
        """Nothing to do."""

    async def fetch_block(self, hash: bytes) -> bool:
        self.asked.append(hash)
        return self.serves

    def snapshot(self) -> dict[str, object]:
        return {}


class Rig:
    """The parts of one ingest process, and readers of its rings."""

    def __init__(
        self,
        instance: str,
        directory: Path | None,
        nodes: Sequence[Source],
        arena_bytes: int,
        network: Network,
    ) -> None:
        self.instance = instance
        self.monotonic = 100.0
        self.unix_time = float(START_TIME + 600 * 10_000)
        self.blocks_writer = Writer.create(
            instance, "blocks", slot_count=4096, arena_bytes=arena_bytes, network=network.name
        )
        self.tx_writer = Writer.create(
            instance, "tx", slot_count=4096, arena_bytes=4 << 20, network=network.name
        )
        self._ring = Ring.attach(instance, "blocks")
        self._reader = self._ring.reader(start="newest")
        self.counters = Counters.create(instance, "ingest", COUNTERS, HISTOGRAMS)
        self.chain = HeaderChain.open(network, directory / "headers" if directory else None)
        self.fetcher = BodyFetcher(self.clock, self._run_at_once)
        self.intake = Intake(
            network,
            self.chain,
            BlockFrames(self.blocks_writer, self._ring, network),
            TransactionFrames(self.tx_writer, network, self.clock),
            self.fetcher,
            IntakeCounters(self.counters),
            nodes=nodes,
            clock=self.clock,
            unix_time=lambda: self.unix_time,
        )
        self._tx_ring = Ring.attach(instance, "tx")
        self._tx_reader = self._tx_ring.reader(start="newest")

    def clock(self) -> float:
        return self.monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass, as the process's ticks would show it."""
        self.monotonic += seconds
        self.unix_time += seconds
        self.intake.tick()

    def feed(self, source: Source) -> SilentFeed:
        """A feed that the fetcher may ask."""
        feed = SilentFeed(source)
        self.fetcher.add_feed(feed)
        return feed

    def frames(self) -> list[Seen]:
        """Frames of the ring ``blocks`` since the last call."""
        return list(_drain(self._reader))

    def tx_frames(self) -> list[Seen]:
        """Frames of the ring ``tx`` since the last call."""
        return list(_drain(self._tx_reader))

    def count(self, name: str) -> int:
        return self.counters[name].value

    def close(self, *, unlink: bool = True) -> None:
        for closing in (self._reader, self._tx_reader, self._ring, self._tx_ring):
            closing.close()
        self.chain.close()
        self.blocks_writer.close(unlink=unlink)
        self.tx_writer.close(unlink=unlink)
        self.counters.close(unlink=unlink)

    @staticmethod
    def _run_at_once(work: object) -> None:
        try:
            work.send(None)  # type: ignore[attr-defined]
        except StopIteration:
            return
        raise AssertionError("a test feed does not wait")


class Rigs:
    """Makes rigs; what is still open at the end is closed."""

    def __init__(self) -> None:
        self._open: list[Rig] = []
        self._instance = f"t-{uuid.uuid4().hex[:12]}"

    def start(
        self,
        nodes: Sequence[Source] = (),
        directory: Path | None = None,
        arena_bytes: int = 8 << 20,
        network: Network = REGTEST,
    ) -> Rig:
        """Start an ingest; on the rings of the one before, if that was stopped by ``crash``."""
        rig = Rig(self._instance, directory, nodes, arena_bytes, network)
        self._open.append(rig)
        return rig

    def crash(self, rig: Rig) -> None:
        """End a rig and leave its shared memory behind, as a killed process does."""
        rig.close(unlink=False)
        self._open.remove(rig)

    def close(self) -> None:
        for rig in self._open:
            rig.close()


@contextmanager
def rigs() -> Iterator[Rigs]:
    made = Rigs()
    try:
        yield made
    finally:
        made.close()


_UNPACK: dict[Kind, Callable[[memoryview], Payload]] = {
    Kind.TIP: Tip.unpack,
    Kind.RETRACT: Retract.unpack,
    Kind.MEMPOOL: Mempool.unpack,
}


def seen_frame(frame: Frame) -> Seen:
    """Take a frame apart."""
    kind = Kind(frame.kind)
    return Seen(
        sequence=frame.sequence,
        kind=kind,
        hash=frame.hash,
        height=frame.height,
        level=Level(frame.level),
        flags=Flag(frame.flags),
        source=frame.source,
        payload=_UNPACK.get(kind, bytes)(frame.payload),
    )


def _drain(reader: Reader) -> Iterator[Seen]:
    while (frame := reader.poll()) is not None:
        yield seen_frame(frame)


def moves(frames: Sequence[Seen], level: Level = Level.MERKLE) -> list[tuple[str, bytes]]:
    """The TIP frames of one level, as ("C" or "D", hash)."""
    return [
        (chr(frame.payload.action), frame.hash)
        for frame in frames
        if isinstance(frame.payload, Tip) and frame.level is level
    ]


def hashes(frames: Sequence[Seen], kind: Kind) -> list[bytes]:
    """Hashes of the frames of one kind."""
    return [frame.hash for frame in frames if frame.kind is kind]


def replay_tips(start: bytes, frames: Sequence[Seen], level: Level = Level.MERKLE) -> bytes:
    """Follow the TIP frames from ``start`` as a reader would; fails where a step does not fit."""
    tip = start
    for frame in frames:
        step = frame.payload
        if not isinstance(step, Tip) or frame.level is not level:
            continue
        if step.action is TipAction.CONNECTED:
            assert step.previous_hash == tip, "a connected block stands on the tip"
            tip = frame.hash
        else:
            assert frame.hash == tip, "a disconnected block was the tip"
            tip = step.previous_hash
    return tip
