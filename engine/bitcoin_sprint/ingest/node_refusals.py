"""Which blocks a node calls invalid, asked by RPC where it stays off our best header.

No message of ZeroMQ says that a block was refused. Core's list of chain tips does, but making it
reads the node's whole block index; so it is asked for only when the best header is not in the
node's best chain, and still is not at the next look.
"""

from __future__ import annotations

from bitcoin_sprint.ingest.feed import Sink, Source
from bitcoin_sprint.ingest.node_rpc import ChainInfo, NodeRpc

REASON = "a trusted node calls it invalid"


class NodeRefusals:
    """See the module. One asyncio thread."""

    def __init__(self, rpc: NodeRpc, sink: Sink, source: Source) -> None:
        self._rpc = rpc
        self._sink = sink
        self._source = source
        self._suspected: bytes | None = None

    @property
    def is_urgent(self) -> bool:
        """Whether to look again soon."""
        return self._suspected is not None

    async def look(self, info: ChainInfo) -> None:
        """Tell the sink what the node, which stands as ``info`` says, refused. Raises FeedError."""
        best = self._sink.locator()[0]
        before, self._suspected = self._suspected, None
        if info.is_syncing or best == info.best:
            return
        if await self._rpc.height_in_best_chain(best) is not None:
            return
        if before != best:
            self._suspected = best
            return
        for hash in await self._rpc.invalid_tips():
            self._sink.on_node_refused(self._source, hash, REASON)
