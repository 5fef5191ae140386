"""What each message of a node's ZeroMQ topics means, and whom it is told to.

Where the node publishes ``sequence``, that alone tells the order of blocks and of the mempool, and
the other topics bring bodies. Where it does not, each topic is taken for what it says by itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from bitcoin_sprint.frames import TipAction
from bitcoin_sprint.ingest.feed import Sink, Source, Stamps, Verdict
from bitcoin_sprint.ingest.node_fetch import NodeFetch
from bitcoin_sprint.ingest.node_order import NodeOrder, parse_word
from bitcoin_sprint.ingest.node_rpc import shown
from bitcoin_sprint.ingest.node_watch import SilenceWatch
from bitcoin_sprint.ingest.zmq_line import ZmqLine
from bitcoin_sprint.ingest.zmq_topics import (
    HASHBLOCK,
    HASHTX,
    RAWBLOCK,
    RAWTX,
    SEQUENCE,
    NodeTopics,
)

RAWBLOCK_GRACE_SECONDS: Final = 0.25
"""How long a ``rawblock`` may follow its ``hashblock`` before the block is fetched."""

_log = logging.getLogger(__name__)


class NodeMessages:
    """See the module. ``fetch`` is None without RPC. One asyncio thread."""

    def __init__(
        self,
        sink: Sink,
        source: Source,
        topics: NodeTopics,
        watch: SilenceWatch,
        order: NodeOrder,
        fetch: NodeFetch | None,
    ) -> None:
        self._sink = sink
        self._source = source
        self._topics = topics
        self._watch = watch
        self._order = order
        self._fetch = fetch
        self.last_at = 0.0
        """Unix time of the last message that was taken; 0.0: there was none."""
        self.counts = dict.fromkeys(
            ("blocks", "transactions", "blocks_refused", "repeated_topics", "malformed"), 0
        )

    def take(self, line: ZmqLine, topic: bytes, body: bytes | memoryview) -> None:
        """A message of one of Core's topics, by ``line``."""
        now = time.time_ns()
        if not self._topics.takes(topic, line):
            self.counts["repeated_topics"] += 1
            return
        self.last_at = now / 1e9
        stamps = Stamps(0, now, now)
        if topic == SEQUENCE:
            self._on_sequence(line, body, stamps)
        elif topic == RAWTX:
            self._on_rawtx(line, bytes(body), stamps)
        elif topic == RAWBLOCK:
            self._on_rawblock(body, stamps)
        elif len(body) != 32:
            self.counts["malformed"] += 1
        elif topic == HASHBLOCK:
            self._on_hashblock(bytes(body[::-1]))
        elif topic == HASHTX:
            self._on_hashtx(bytes(body[::-1]))

    def _on_sequence(self, line: ZmqLine, body: bytes | memoryview, stamps: Stamps) -> None:
        word = parse_word(body, stamps)
        if word is None:
            self.counts["malformed"] += 1
            return
        if word.action is TipAction.CONNECTED:
            self._watch.hear(word.hash)
        elif word.action is TipAction.DISCONNECTED:
            self._watch.told = None
        self._order.on_word(line, word)

    def _on_rawtx(self, line: ZmqLine, raw: bytes, stamps: Stamps) -> None:
        self.counts["transactions"] += 1
        self._order.expects_bodies = True
        # While it is not known whether ``sequence`` will come, both ways are open.
        if self._topics.is_live(SEQUENCE) or self._topics.names is None:
            self._order.on_body(line, raw)
        if not self._topics.is_live(SEQUENCE):
            self._sink.on_transaction(self._source, raw, stamps, verified=True)

    def _on_hashtx(self, txid: bytes) -> None:
        if self._topics.is_live(RAWTX) or self._topics.is_live(SEQUENCE) or self._fetch is None:
            return
        if self._fetch.is_open and self._sink.wants_transaction(txid):
            self._fetch.transaction(txid)

    def _on_rawblock(self, raw: bytes | memoryview, stamps: Stamps) -> None:
        self.counts["blocks"] += 1
        outcome = self._sink.on_block(self._source, raw, stamps)
        if outcome.verdict is Verdict.REFUSED:
            self.counts["blocks_refused"] += 1
            hash = shown(outcome.hash)
            _log.warning("%s: block %s refused: %s", self._source.name, hash, outcome.reason)
            return
        if outcome.verdict is Verdict.ORPHAN:
            self._bring(outcome.hash)
        self._on_new_best(outcome.hash)

    def _on_hashblock(self, hash: bytes) -> None:
        if self._topics.is_live(RAWBLOCK):
            loop = asyncio.get_running_loop()
            loop.call_later(RAWBLOCK_GRACE_SECONDS, self._bring_if_lacking, hash)
        else:
            self._bring(hash)
        self._on_new_best(hash)

    def _on_new_best(self, hash: bytes) -> None:
        """The node's new tip; to be said here only where ``sequence`` does not say it."""
        is_news = self._watch.told != hash
        self._watch.hear(hash)
        if is_news and not self._topics.is_live(SEQUENCE):
            self._sink.on_node_tip(self._source, TipAction.CONNECTED, hash)

    def _bring_if_lacking(self, hash: bytes) -> None:
        if self._sink.wants_body(hash) or not self._sink.knows_header(hash):
            self._bring(hash)

    def _bring(self, hash: bytes) -> None:
        """Get a block that was only named: its header at once, then its body."""
        if self._fetch is not None and self._fetch.is_open:
            self._fetch.way_to(hash)
