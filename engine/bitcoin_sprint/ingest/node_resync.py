"""Bring the intake level with a node by RPC: headers, tip, mempool.

Used at the start, after a connection broke, after messages were lost, and where a node's notifiers
fell silent. What the ZeroMQ messages would have said is said afterwards: the tip (the intake spells
out the way there), then which transactions the mempool lost and gained meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from bitcoin_sprint.errors import FeedError
from bitcoin_sprint.frames import MempoolAction
from bitcoin_sprint.ingest.feed import HEADERS_BATCH_MAX, HeadersOutcome, Sink, Source
from bitcoin_sprint.ingest.node_order import NodeOrder
from bitcoin_sprint.ingest.node_rpc import ChainInfo, MempoolSnapshot, NodeRpc
from bitcoin_sprint.ingest.rpc import RpcError

WALK_MAX: Final = 24
"""Headers asked for one by one, back from a new block, before the way is taken in batches."""
SETTLED_BLOCKS: Final = 144
"""Blocks below a snapshot's tip that a message still on its way may name."""
PRUNED_BLOCKS: Final = 50
"""Blocks read at a time to take what they mined out of the mempool's mirror."""
BODIES_BATCH: Final = 200
MEMPOOL_MAX: Final = 2_000_000


class HeaderSync:
    """Brings the headers that lead to a block. Calls are made one after the other."""

    def __init__(self, rpc: NodeRpc, sink: Sink, source: Source) -> None:
        self._rpc = rpc
        self._sink = sink
        self._source = source
        self._lock = asyncio.Lock()

    async def bring(self, hash: bytes) -> list[bytes]:
        """Bring the header ``hash`` and all that it stands on; the blocks wanted of us now.

        Raises FeedError where the node does not answer, has no such block, or gives headers that
        are refused.
        """
        async with self._lock:
            if self._sink.knows_header(hash):
                return []
            headers = [await self._rpc.header(hash)]
            for _ in range(WALK_MAX):
                if self._sink.knows_header(headers[-1][4:36]):
                    headers.reverse()
                    return list(self._give(headers).wanted)
                headers.append(await self._rpc.header(headers[-1][4:36]))
            return await self._bring_batches()

    async def _bring_batches(self) -> list[bytes]:
        """All headers of the node's best chain above the last that we share."""
        height = await self._shared_height()
        while True:
            headers = await self._rpc.headers(height + 1, HEADERS_BATCH_MAX)
            outcome = self._give(headers)
            if len(headers) < HEADERS_BATCH_MAX:
                return list(outcome.wanted)
            height += len(headers)

    async def _shared_height(self) -> int:
        for hash in self._sink.locator():
            height = await self._rpc.height_in_best_chain(hash)
            if height is not None:
                return height
        raise FeedError("the node shares no block with our header chain")

    def _give(self, headers: Sequence[bytes]) -> HeadersOutcome:
        outcome = self._sink.on_headers(self._source, headers)
        if outcome.refused is not None:
            raise FeedError(f"a header of the node's is refused: {outcome.refused}")
        return outcome


class NodeResync:
    """Says what the lost messages would have said. ``order`` is held while it works."""

    def __init__(
        self, rpc: NodeRpc, headers: HeaderSync, sink: Sink, source: Source, order: NodeOrder
    ) -> None:
        self._rpc = rpc
        self._headers = headers
        self._sink = sink
        self._source = source
        self._order = order
        self._last: ChainInfo | None = None
        self.is_new_process = False
        """Set by the owner: another process answers than before, its mempool begins anew."""
        self.counts = {"resyncs": 0, "mempool_added": 0, "mempool_removed": 0}

    async def run(self, *, with_mempool: bool) -> tuple[ChainInfo, list[bytes]]:
        """Catch up with the node and release ``order``; its tip, and the blocks wanted of us.

        ``with_mempool``: the node publishes ``sequence``, so its mempool is followed. Raises
        FeedError; ``order`` is still held then.
        """
        info = await self._rpc.chain_info()
        wanted = await self._headers.bring(info.best)
        lowest = max(0, info.height - SETTLED_BLOCKS)
        settled = await self._rpc.hashes(lowest, info.height - lowest + 1)
        snapshot = await self._rpc.mempool() if with_mempool else None
        self._sink.on_node_connected(self._source, info.best)
        if snapshot is not None:
            await self._tell_mempool(snapshot, info, settled)
        self._order.release(snapshot.sequence if snapshot else None, {*settled, info.best})
        self.counts["resyncs"] += 1
        return info, wanted

    async def prune(self) -> None:
        """Take what was mined out of ``order.mempool``, some blocks at a time. Raises FeedError."""
        connected = self._order.connected
        if not self._order.mempool:
            connected.clear()
        for _ in range(min(len(connected), PRUNED_BLOCKS)):
            hash = connected[0]
            txids = await self._txids(hash)
            if connected and connected[0] == hash:
                connected.popleft()
                self._order.mempool.difference_update(txids)

    async def _tell_mempool(
        self, snapshot: MempoolSnapshot, info: ChainInfo, newest: Sequence[bytes]
    ) -> None:
        order = self._order
        current = set(snapshot.txids)
        if len(current) > MEMPOOL_MAX:
            raise FeedError(f"a mempool of {len(current)} transactions is over {MEMPOOL_MAX}")
        if self._last is None:
            order.mempool = current
        else:
            gone = order.mempool - current
            if gone and self._can_tell_removed(snapshot, info, self._last):
                await self._tell_removed(gone, snapshot, newest, self._last)
            order.mempool &= current
            new = [txid for txid in snapshot.txids if txid not in order.mempool]
            await self._tell_added(new, snapshot)
        order.mempool_sequence = max(0, snapshot.sequence - 1)
        order.connected.clear()
        order.forgot_connected = False
        self._last = info
        self.is_new_process = False

    def _can_tell_removed(
        self, snapshot: MempoolSnapshot, info: ChainInfo, last: ChainInfo
    ) -> bool:
        """Whether what was mined can be told from what was thrown out, and it was one process."""
        return (
            not self.is_new_process
            and snapshot.sequence >= self._order.mempool_sequence
            and not self._order.forgot_connected
            and info.height - last.height < SETTLED_BLOCKS
        )

    async def _tell_removed(
        self, gone: set[bytes], snapshot: MempoolSnapshot, newest: Sequence[bytes], last: ChainInfo
    ) -> None:
        """Say what was thrown out; what was mined is no removal to a node."""
        start = newest.index(last.best) + 1 if last.best in newest else 0
        for hash in dict.fromkeys((*reversed(newest[start:]), *self._order.connected)):
            gone.difference_update(await self._txids(hash))
            if not gone:
                return
        for txid in gone:
            self._order.tell_mempool(MempoolAction.REMOVED, txid, self._between(snapshot))
            self.counts["mempool_removed"] += 1

    async def _txids(self, hash: bytes) -> Sequence[bytes]:
        try:
            return await self._rpc.block_txids(hash)
        except RpcError:  # pruned, or unknown to the process that answers now
            return ()

    async def _tell_added(self, new: Sequence[bytes], snapshot: MempoolSnapshot) -> None:
        for start in range(0, len(new), BODIES_BATCH):
            batch = new[start : start + BODIES_BATCH]
            bodies = await self._rpc.transactions(batch)
            for txid, raw in zip(batch, bodies, strict=True):
                if raw is not None:  # else gone again, and its R is still to come
                    number = self._between(snapshot)
                    self._order.tell_mempool(MempoolAction.ADDED, txid, number, raw)
                    self.counts["mempool_added"] += 1

    def _between(self, snapshot: MempoolSnapshot) -> int:
        """A number for a change whose own was lost: after the last, before the snapshot's."""
        last = self._order.mempool_sequence
        return max(0, min(last + 1, snapshot.sequence - 1)) if last < snapshot.sequence else last
