"""The figures of the ingest process: what came, from whom, what was first, what was refused."""

from __future__ import annotations

import time
from typing import Final

from bitcoin_sprint.ingest.body_fetcher import BodyFetcher
from bitcoin_sprint.ingest.feed import Outcome, Source, Stamps, Verdict
from bitcoin_sprint.ingest.header_intake import HeaderIntake
from bitcoin_sprint.ingest.node_words import NodeWords
from bitcoin_sprint.metrics import Counters
from bitcoin_sprint.validate import HeaderEntry

COUNTERS: Final = (
    "headers_published",
    "headers_refused",
    "headers_held",
    "blocks_published",
    "blocks_duplicate",
    "blocks_refused",
    "blocks_orphan",
    "blocks_held",
    "blocks_too_big",
    "tips_published",
    "tip_jumps",
    "retracts_published",
    "transactions_published",
    "transactions_duplicate",
    "transactions_refused",
    "transactions_limited",
    "mempool_published",
    "bodies_asked",
    "bodies_raced",
    "bodies_wanted",
    "node_words_dropped",
    "node_bodies_unseen",
    "node_tip_jumps",
    "tip_height",
    "connected_height",
    "connected_up",
)
"""``connected_up``: whether a trusted node is up, so that level ``connected`` goes on."""
HISTOGRAMS: Final = ("prove_ns", "header_ns", "block_ns", "transaction_ns")
"""``prove_ns``: time to prove a body; the others: last byte received to published."""
SOURCE_COUNTERS: Final = (
    "headers_won",
    "blocks_won",
    "blocks_duplicate",
    "blocks_refused",
    "transactions_won",
    "transactions_duplicate",
)
"""Of each source, as ``source.<name>.<counter>``."""


class IntakeCounters:
    """Counts in ``counters`` (borrowed), which must have been created with the names above."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self.headers_refused = counters["headers_refused"]
        self.blocks_orphan = counters["blocks_orphan"]
        self.blocks_held = counters["blocks_held"]
        self.blocks_too_big = counters["blocks_too_big"]
        self.tips_published = counters["tips_published"]
        self.tip_jumps = counters["tip_jumps"]
        self.retracts_published = counters["retracts_published"]
        self.mempool_published = counters["mempool_published"]
        self.prove_ns = counters.histogram("prove_ns")
        self._header_ns = counters.histogram("header_ns")
        self._block_ns = counters.histogram("block_ns")
        self._transaction_ns = counters.histogram("transaction_ns")

    def header_won(self, source: Source, stamps: Stamps) -> None:
        """Count a HEADER frame that ``source`` was first to bring."""
        self._counters["headers_published"].add()
        self._of(source, "headers_won")
        if stamps.last_byte_ns:
            self._header_ns.record(max(0, time.time_ns() - stamps.last_byte_ns))

    def block_won(self, source: Source, stamps: Stamps) -> None:
        """Count a BLOCK frame that ``source`` was first to bring."""
        self._counters["blocks_published"].add()
        self._of(source, "blocks_won")
        if stamps.last_byte_ns:
            self._block_ns.record(max(0, time.time_ns() - stamps.last_byte_ns))

    def block_duplicate(self, source: Source) -> None:
        """Count a block that another copy came before."""
        self._counters["blocks_duplicate"].add()
        self._of(source, "blocks_duplicate")

    def block_refused(self, source: Source) -> None:
        """Count a block that failed its proof."""
        self._counters["blocks_refused"].add()
        self._of(source, "blocks_refused")

    def block(self, source: Source, outcome: Outcome, stamps: Stamps) -> None:
        """Count a block by what became of it."""
        if outcome.verdict is Verdict.ACCEPTED:
            self.block_won(source, stamps)
        elif outcome.verdict is Verdict.DUPLICATE:
            self.block_duplicate(source)
        else:
            self.block_refused(source)

    def transaction(self, source: Source, outcome: Outcome, stamps: Stamps) -> None:
        """Count a transaction by what became of it."""
        if outcome.verdict is Verdict.ACCEPTED:
            self._counters["transactions_published"].add()
            self._of(source, "transactions_won")
            if stamps.last_byte_ns:
                self._transaction_ns.record(max(0, time.time_ns() - stamps.last_byte_ns))
        elif outcome.verdict is Verdict.DUPLICATE:
            self._counters["transactions_duplicate"].add()
            self._of(source, "transactions_duplicate")
        elif outcome.punish:
            self._counters["transactions_refused"].add()
        else:
            self._counters["transactions_limited"].add()

    def follow(
        self, headers: HeaderIntake, words: NodeWords, fetcher: BodyFetcher, tip: HeaderEntry
    ) -> None:
        """Take over the figures that others keep."""
        counters = self._counters
        counters["headers_held"].set(len(headers.forks) + len(headers.future))
        counters["bodies_asked"].set(fetcher.asked_count)
        counters["bodies_raced"].set(fetcher.raced_count)
        counters["bodies_wanted"].set(len(fetcher))
        counters["node_words_dropped"].set(words.dropped_count)
        counters["node_bodies_unseen"].set(words.unseen_bodies_count)
        counters["node_tip_jumps"].set(words.jumps_count)
        counters["tip_height"].set(tip.height)
        if words.tip is not None:
            counters["connected_height"].set(words.tip.height)

    def _of(self, source: Source, name: str) -> None:
        self._counters.counter(f"source.{source.name}.{name}").add()
