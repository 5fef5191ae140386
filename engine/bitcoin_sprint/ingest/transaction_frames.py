"""Frames of the ring ``tx``: transactions once, and a node's mempool changes in its order.

A peer's transaction is ``unverified``: nobody here checks signatures. It is told apart by wtxid,
because a copy with a broken witness has the honest one's txid and must not hide it. Each peer may
bring only so many transactions and bytes in a time; what is above that is dropped and counted,
and is no reason to punish it.

A trusted node's acceptance is a word of its own, of level ``connected``: a TX frame when no node
vouched for this txid before, even if a peer's unverified copy went out earlier, and a MEMPOOL
frame where the node names the change (its ``sequence`` topic).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bitcoin_sprint.chains import Network
from bitcoin_sprint.errors import TransactionRefused
from bitcoin_sprint.frames import Kind, Level, Mempool, MempoolAction
from bitcoin_sprint.ingest.feed import Outcome, Source, Stamps, Verdict
from bitcoin_sprint.ingest.first_seen import BoundedMap, SeenSet
from bitcoin_sprint.ingest.node_words import MempoolEvent
from bitcoin_sprint.ingest.token_bucket import TokenBucket
from bitcoin_sprint.ring import Writer
from bitcoin_sprint.validate import prove_transaction

TRANSACTION_BYTES: Final = 2_000
"""Bytes that a source's bound allows for each of its transactions, on average."""
TRANSACTIONS_BURST_S: Final = 10.0
BYTES_BURST_S: Final = 8.0
"""How many seconds' worth of its bounds a source that was quiet may bring at once."""
TRANSACTION_BYTES_MAX: Final = 4_000_000


class TransactionFrames:
    """The writing side of the ring ``tx``. One thread; ``writer`` is borrowed.

    ``remembered_max``: transactions that are known again when another copy comes;
    ``per_s_max``: what one source may bring a second that vouches for nothing.
    """

    def __init__(
        self,
        writer: Writer,
        network: Network,
        clock: Callable[[], float],
        *,
        remembered_max: int = 200_000,
        per_s_max: int = 1_000,
    ) -> None:
        self._writer = writer
        self._network = network
        self._chain = network.chain
        self._clock = clock
        self._seen_wtxids = SeenSet(remembered_max)
        # Level at which a txid went out last.
        self._levels: BoundedMap[Level] = BoundedMap(remembered_max)
        self._per_s_max = per_s_max
        self._buckets: dict[int, tuple[TokenBucket, TokenBucket]] = {}

    def knows(self, hash: bytes) -> bool:
        """Return whether a transaction of this txid or wtxid was published."""
        return hash in self._levels or hash in self._seen_wtxids

    def take(
        self, source: Source, raw: bytes | memoryview, stamps: Stamps, level: Level
    ) -> Outcome:
        """Check and publish a transaction, unless it went out at ``level`` or above."""
        if level is Level.UNVERIFIED and not self._within_bounds(source, len(raw)):
            return Outcome(Verdict.REFUSED, reason="rate-limit")
        try:
            if len(raw) > TRANSACTION_BYTES_MAX:
                raise TransactionRefused("bad-txns-oversize")
            txid, wtxid = prove_transaction(raw, self._network)
        except TransactionRefused as error:
            return Outcome(Verdict.REFUSED, reason=error.reason, punish=True)
        known = self._levels.get(txid)
        vouched = known is Level.CONNECTED
        if vouched or (level is Level.UNVERIFIED and wtxid in self._seen_wtxids):
            return Outcome(Verdict.DUPLICATE, txid)
        self._seen_wtxids.add(wtxid)
        self._levels[txid] = max(level, known or level)
        self._writer.publish(
            Kind.TX,
            raw,
            hash=txid,
            level=level,
            chain=self._chain,
            source=source.index,
            origin_ns=stamps.origin_ns,
            first_byte_ns=stamps.first_byte_ns,
            last_byte_ns=stamps.last_byte_ns,
        )
        return Outcome(Verdict.ACCEPTED, txid)

    def publish_mempool(self, event: MempoolEvent, source: Source, level: Level) -> None:
        """Publish that the mempool of ``source`` changed."""
        if event.action is MempoolAction.REMOVED:
            # The node may take it again later, and that is news.
            self._levels.pop(event.txid)
        payload = Mempool(event.action, event.mempool_sequence, event.raw).pack()
        stamps = event.stamps
        self._writer.publish(
            Kind.MEMPOOL,
            payload,
            hash=event.txid,
            level=level,
            chain=self._chain,
            source=source.index,
            origin_ns=stamps.origin_ns,
            first_byte_ns=stamps.first_byte_ns,
            last_byte_ns=stamps.last_byte_ns,
        )

    def _within_bounds(self, source: Source, length: int) -> bool:
        now = self._clock()
        buckets = self._buckets.get(source.index)
        if buckets is None:
            rate, bytes_per_s = self._per_s_max, self._per_s_max * TRANSACTION_BYTES
            buckets = self._buckets[source.index] = (
                TokenBucket(rate, rate * TRANSACTIONS_BURST_S, now),
                TokenBucket(bytes_per_s, bytes_per_s * BYTES_BURST_S, now),
            )
        counts, byte_counts = buckets
        return counts.take(1, now) and byte_counts.take(length, now)
