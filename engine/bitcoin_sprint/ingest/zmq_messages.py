"""What each message of a node's ZeroMQ topics means, and whom it is told to.

Where the node publishes ``sequence``, that alone tells the order of blocks and of the mempool, and
the other topics bring bodies. Where it does not, each topic is taken for what it says by itself:
a transaction that no block brought entered the mempool, with number 0, and of what leaves the
mempool nothing is known. That is said once in the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from bitcoin_sprint.chains import Network
from bitcoin_sprint.errors import TransactionRefused
from bitcoin_sprint.frames import MempoolAction, TipAction
from bitcoin_sprint.ingest.feed import NO_STAMPS, Sink, Source, Stamps, Verdict
from bitcoin_sprint.ingest.first_seen import SeenSet
from bitcoin_sprint.ingest.node_fetch import NodeFetch
from bitcoin_sprint.ingest.node_order import NodeOrder, Word, parse_word
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
from bitcoin_sprint.validate import is_coinbase, prove_transaction

SEQUENCE_GRACE_SECONDS: Final = 1.0
"""How long a node that can't be asked may take to show that it publishes ``sequence``."""
BLOCK_RUN_SECONDS: Final = 2.0
"""How long the transactions of one block may take to arrive at the most."""
TOLD_MAX: Final = 100_000
RAWBLOCK_GRACE_SECONDS: Final = 0.25
"""How long a ``rawblock`` may follow its ``hashblock`` before the block is fetched."""

_log = logging.getLogger(__name__)


class NodeMessages:
    """See the module. ``fetch`` is None without RPC. One asyncio thread."""

    def __init__(
        self,
        sink: Sink,
        source: Source,
        network: Network,
        topics: NodeTopics,
        watch: SilenceWatch,
        order: NodeOrder,
        fetch: NodeFetch | None,
    ) -> None:
        self._sink = sink
        self._source = source
        self._network = network
        self._topics = topics
        self._watch = watch
        self._order = order
        self._fetch = fetch
        self._first_at: float | None = None
        self._is_warned = False
        self._block_run: tuple[ZmqLine, float] | None = None
        self._told = SeenSet(TOLD_MAX)
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
            self._on_rawblock(line, body, stamps)
        elif len(body) != 32:
            self.counts["malformed"] += 1
        elif topic == HASHBLOCK:
            self._on_hashblock(line, bytes(body[::-1]))
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
            self._on_loose_transaction(line, raw, stamps)

    def _on_loose_transaction(self, line: ZmqLine, raw: bytes, stamps: Stamps) -> None:
        """A transaction without a word about it: it entered the mempool, or a block brought it."""
        try:
            txid, _ = prove_transaction(raw, self._network)
        except TransactionRefused:
            self.counts["malformed"] += 1
            return
        is_of_block = self._is_of_block(line, raw)
        if not self._lacks_sequence() or is_of_block:
            self._sink.on_transaction(self._source, raw, stamps, verified=True)
        elif self._told.add(txid):
            self._sink.on_mempool(self._source, MempoolAction.ADDED, txid, 0, raw, stamps)

    def _is_of_block(self, line: ZmqLine, raw: bytes) -> bool:
        """Core tells a block's transactions one after the other, the coinbase first, then the block
        itself. Where that comes by another connection, only the coinbase can be told."""
        now = time.monotonic()
        if is_coinbase(raw):
            by_line = self._topics.is_home(HASHBLOCK, line) or self._topics.is_home(RAWBLOCK, line)
            self._block_run = (line, now + BLOCK_RUN_SECONDS if by_line else now)
            return True
        return self._block_run is not None and now < self._block_run[1]

    def _lacks_sequence(self) -> bool:
        """Whether we have to do without ``sequence``; says so once."""
        if self._topics.is_live(SEQUENCE):
            return False
        if self._topics.names is None:  # it may publish it, and only not have spoken yet
            now = time.monotonic()
            if self._first_at is None:
                self._first_at = now
            if now - self._first_at < SEQUENCE_GRACE_SECONDS:
                return False
        if not self._is_warned and self._source.trusted:
            self._is_warned = True
            _log.warning(
                "%s: no `sequence` comes from it, so what leaves its mempool is not known, our own "
                "`sequence` tells of blocks alone, and `rawtx` and `hashtx` tell a transaction of "
                "the mempool once; start it with -zmqpubsequence=<address> and name that address "
                "in ingest.zmq",
                self._source.name,
            )
        return True

    def _on_hashtx(self, txid: bytes) -> None:
        if self._topics.is_live(RAWTX) or self._topics.is_live(SEQUENCE) or self._fetch is None:
            return
        if self._fetch.is_open and self._lacks_sequence() and self._told.add(txid):
            self._fetch.transaction(txid)

    def _on_rawblock(self, line: ZmqLine, raw: bytes | memoryview, stamps: Stamps) -> None:
        self.counts["blocks"] += 1
        outcome = self._sink.on_block(self._source, raw, stamps)
        if outcome.verdict is Verdict.REFUSED:
            self.counts["blocks_refused"] += 1
            hash = shown(outcome.hash)
            _log.warning("%s: block %s refused: %s", self._source.name, hash, outcome.reason)
            return
        if outcome.verdict is Verdict.ORPHAN:
            self._bring(outcome.hash)
        self._on_new_best(line, outcome.hash)

    def _on_hashblock(self, line: ZmqLine, hash: bytes) -> None:
        if self._topics.is_live(RAWBLOCK):
            loop = asyncio.get_running_loop()
            loop.call_later(RAWBLOCK_GRACE_SECONDS, self._bring_if_lacking, hash)
        else:
            self._bring(hash)
        self._on_new_best(line, hash)

    def _on_new_best(self, line: ZmqLine, hash: bytes) -> None:
        """The node's new tip; to be said here only where ``sequence`` does not say it."""
        if self._block_run is not None and self._block_run[0] is line:
            self._block_run = None
        is_news = self._watch.told != hash
        self._watch.hear(hash)
        if is_news and not self._topics.is_live(SEQUENCE):
            self._lacks_sequence()
            # In order: while the node is asked where it stands, this may be later than the answer.
            self._order.on_word(line, Word(TipAction.CONNECTED, hash, 0, NO_STAMPS))

    def _bring_if_lacking(self, hash: bytes) -> None:
        if self._sink.wants_body(hash) or not self._sink.knows_header(hash):
            self._bring(hash)

    def _bring(self, hash: bytes) -> None:
        """Get a block that was only named: its header at once, then its body."""
        if self._fetch is not None and self._fetch.is_open:
            self._fetch.way_to(hash)
