"""Fetches by RPC what a node only named: blocks with their headers, transactions.

Each fetch is a task of its own and never raises: what concerns the node as a whole is noticed by
the feed's own round of the node, which ``on_failure`` brings forward.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from bitcoin_sprint.errors import FeedError
from bitcoin_sprint.frames import MempoolAction
from bitcoin_sprint.ingest.feed import Sink, Source, Stamps, Verdict
from bitcoin_sprint.ingest.node_resync import HeaderSync
from bitcoin_sprint.ingest.node_rpc import NodeRpc, shown
from bitcoin_sprint.ingest.rpc import RpcError
from bitcoin_sprint.validate import is_coinbase

_log = logging.getLogger(__name__)


class NodeFetch:
    """See the module. One asyncio thread."""

    def __init__(
        self,
        rpc: NodeRpc,
        headers: HeaderSync,
        sink: Sink,
        source: Source,
        on_failure: Callable[[], None],
    ) -> None:
        self._rpc = rpc
        self._headers = headers
        self._sink = sink
        self._source = source
        self._on_failure = on_failure
        self._blocks: set[bytes] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.blocks_fetched = 0
        self.is_open = False
        """Set by the owner: the node answers."""

    def block(self, hash: bytes) -> None:
        """Fetch a block, unless that is under way."""
        if hash not in self._blocks:
            self._blocks.add(hash)
            self._spawn(self._fetch_block, hash)

    def way_to(self, hash: bytes) -> None:
        """Fetch the headers that lead to a block, then the bodies that are wanted of us."""
        self._spawn(self._fetch_way, hash)

    def transaction(self, txid: bytes) -> None:
        """Fetch a transaction that entered the mempool, and say so."""
        self._spawn(self._fetch_transaction, txid)

    def close(self) -> None:
        """Give up what is under way."""
        for task in list(self._tasks):
            task.cancel()

    async def _fetch_block(self, hash: bytes) -> None:
        try:
            raw = await self._rpc.block(hash)
        except RpcError as error:
            _log.info("%s: block %s can't be had: %s", self._source.name, shown(hash), error)
            return
        finally:
            self._blocks.discard(hash)
        self.blocks_fetched += 1
        now = time.time_ns()
        outcome = self._sink.on_block(self._source, raw, Stamps(0, now, now))
        if outcome.verdict is Verdict.ORPHAN:
            await self._fetch_way(hash)

    async def _fetch_way(self, hash: bytes) -> None:
        wanted = await self._headers.bring(hash)
        if not wanted and self._sink.wants_body(hash):
            wanted = [hash]
        for each in wanted:
            self.block(each)

    async def _fetch_transaction(self, txid: bytes) -> None:
        (raw,) = await self._rpc.transactions([txid])
        if raw is not None and not is_coinbase(raw):
            self._sink.on_mempool(self._source, MempoolAction.ADDED, txid, 0, raw)

    def _spawn(self, fetch: Callable[[bytes], Awaitable[None]], hash: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(fetch, hash))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, fetch: Callable[[bytes], Awaitable[None]], hash: bytes) -> None:
        try:
            await fetch(hash)
        except FeedError as error:
            _log.info("%s: %s", self._source.name, error)
            self._on_failure()
