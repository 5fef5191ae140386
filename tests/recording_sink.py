"""A small stand-in for the intake: it keeps what feeds say, and lets tests wait for it.

It follows headers by their parents and proves bodies, but knows nothing of work or difficulty; the
real intake has tests of its own. ``verdicts`` and ``header_verdict`` make it refuse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from bitcoin_sprint.chains import Network
from bitcoin_sprint.errors import BlockRefused, TransactionRefused
from bitcoin_sprint.frames import MempoolAction, TipAction
from bitcoin_sprint.ingest.feed import (
    HEADERS_BATCH_MAX,
    NO_STAMPS,
    Feed,
    HeadersOutcome,
    Outcome,
    Source,
    Stamps,
    Verdict,
)
from bitcoin_sprint.validate import prove_block, prove_transaction


class RecordingSink:
    """See the module. ``asks``: whether new headers make it want their bodies."""

    def __init__(self, network: Network, *, asks: bool = True) -> None:
        self.network = network
        self.asks = asks
        self.heights: dict[bytes, int] = {network.genesis_hash: 0}
        self.parents: dict[bytes, bytes] = {}
        self.best = network.genesis_hash
        self.bodies: dict[bytes, bytes] = {}
        self.stamps: dict[bytes, Stamps] = {}
        self.transactions: dict[bytes, bytes] = {}
        self.sources: dict[bytes, str] = {}
        self.failed_bodies: list[tuple[str, bytes]] = []
        self.header_calls: list[tuple[str, int]] = []
        self.block_outcomes: list[Outcome] = []
        self.header_verdict: Callable[[bytes], HeadersOutcome | None] = lambda _: None
        self.feeds: list[Feed] = []
        """Asked for the bodies that headers did not make their own sender bring."""
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[object]] = set()

    def preload(self, bodies: Sequence[bytes]) -> None:
        """Know these blocks, oldest first, as if they had come before."""
        for raw in bodies:
            hash, parent = self.network.block_hash(raw[:80]), raw[4:36]
            self.heights[hash] = self.heights[parent] + 1
            self.parents[hash] = parent
            self.bodies[hash] = raw
            self.best = hash

    async def until(self, condition: Callable[[], object], timeout: float = 30.0) -> None:
        """Wait until something the sink was told makes ``condition`` true."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(lambda: bool(condition()))

    def changed(self) -> None:
        """Have waiting tests look again."""

        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        self._spawn(notify())

    @property
    def best_height(self) -> int:
        return self.heights[self.best]

    def on_headers(
        self, source: Source, headers: Sequence[bytes], stamps: Stamps = NO_STAMPS
    ) -> HeadersOutcome:
        self.header_calls.append((source.name, len(headers)))
        accepted, wanted, unknown = 0, [], None
        for header in headers:
            verdict = self.header_verdict(header)
            if verdict is not None:
                return verdict
            hash, parent = self.network.block_hash(header), header[4:36]
            if parent not in self.heights:
                unknown = parent
                break
            accepted += 1
            if hash not in self.heights:
                self.heights[hash] = self.heights[parent] + 1
                self.parents[hash] = parent
                self.stamps.setdefault(hash, stamps)
                if self.heights[hash] > self.best_height:
                    self.best = hash
            if self.wants_body(hash):
                wanted.append(hash)
        self.changed()
        more = len(headers) == HEADERS_BATCH_MAX
        return HeadersOutcome(accepted, unknown, None, wanted[:16], more)

    def on_block(
        self, source: Source, raw: bytes | memoryview, stamps: Stamps = NO_STAMPS
    ) -> Outcome:
        outcome = self._judge_block(source, raw, stamps)
        self.block_outcomes.append(outcome)
        self.changed()
        for hash in [hash for hash in self.parents if hash not in self.bodies][:8]:
            self.fetch_from_all(hash)
        return outcome

    def fetch_from_all(self, hash: bytes) -> None:
        """Ask every feed that can for a body."""
        for feed in self.feeds:
            if feed.can_fetch:
                self._spawn(feed.fetch_block(hash))

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _judge_block(self, source: Source, raw: bytes | memoryview, stamps: Stamps) -> Outcome:
        try:
            hash = prove_block(raw, self.network).hash
        except BlockRefused as error:
            return Outcome(Verdict.REFUSED, b"", error.reason, punish=True)
        if bytes(raw[4:36]) not in self.heights:
            return Outcome(Verdict.ORPHAN, hash)
        if hash in self.bodies:
            return Outcome(Verdict.DUPLICATE, hash)
        self.bodies[hash] = bytes(raw)
        self.sources[hash] = source.name
        self.stamps[hash] = stamps
        return Outcome(Verdict.ACCEPTED, hash)

    def on_transaction(
        self,
        source: Source,
        raw: bytes | memoryview,
        stamps: Stamps = NO_STAMPS,
        *,
        verified: bool = False,
    ) -> Outcome:
        assert not verified
        try:
            txid, wtxid = prove_transaction(raw)
        except TransactionRefused as error:
            return Outcome(Verdict.REFUSED, b"", error.reason, punish=True)
        known = txid in self.transactions
        self.transactions[txid] = self.transactions[wtxid] = bytes(raw)
        self.sources[txid] = source.name
        self.stamps[txid] = stamps
        self.changed()
        return Outcome(Verdict.DUPLICATE if known else Verdict.ACCEPTED, txid)

    def on_mempool(
        self,
        source: Source,
        action: MempoolAction,
        txid: bytes,
        mempool_sequence: int,
        raw: bytes | None = None,
        stamps: Stamps = NO_STAMPS,
    ) -> None:
        said = (source.name, action, txid, mempool_sequence, raw, stamps)
        raise AssertionError(f"a peer says nothing about its mempool: {said}")

    def on_node_connected(self, source: Source, tip: bytes | None) -> None:
        raise AssertionError(f"{source.name} is no trusted node: {tip!r}")

    def on_node_lost(self, source: Source) -> None:
        raise AssertionError(f"{source.name} is no trusted node")

    def on_node_tip(self, source: Source, action: TipAction, hash: bytes) -> None:
        raise AssertionError(f"{source.name} is no trusted node: {action} {hash!r}")

    def on_node_refused(self, source: Source, hash: bytes, reason: str) -> None:
        raise AssertionError(f"{source.name} is no trusted node: {hash!r} {reason}")

    def on_body_failed(self, source: Source, hash: bytes) -> None:
        self.failed_bodies.append((source.name, hash))
        self.changed()
        for feed in self.feeds:
            if feed.can_fetch and feed.source != source:
                self._spawn(feed.fetch_block(hash))

    def wants_body(self, hash: bytes) -> bool:
        return self.asks and hash in self.parents and hash not in self.bodies

    def knows_header(self, hash: bytes) -> bool:
        return hash in self.heights

    def wants_transaction(self, hash: bytes) -> bool:
        return hash not in self.transactions

    def locator(self) -> list[bytes]:
        locator, hash, step = [], self.best, 1
        while hash in self.parents:
            locator.append(hash)
            for _ in range(step if len(locator) > 10 else 1):
                hash = self.parents.get(hash, self.network.genesis_hash)
            step *= 2 if len(locator) > 10 else 1
        return [*locator, self.network.genesis_hash]

    def body(self, hash: bytes) -> bytes | None:
        return self.bodies.get(hash)
