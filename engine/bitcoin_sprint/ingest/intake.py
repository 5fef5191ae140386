"""The intake: what every source says comes here, and the first proved copy wins.

Way of a block: its header is admitted to the header chain (``header_intake``) and goes out as a
HEADER frame at once; its body, if it is proved, as a BLOCK frame; then the tip moves (``tip``) and
each step is a TIP frame. What is still lacking is asked for (``body_fetcher``). Words of trusted
nodes take their own way (``node_words``), transactions theirs (``transaction_frames``).

Everything runs in one thread and nothing waits. A wrong copy condemns that copy and its sender,
not the hash: nothing is remembered of it but the count. Only where the header itself commits to
what is wrong (``BlockRefused.mutated`` is false) is the block taken back, as a node's refusal is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from bitcoin_sprint.chains import Network
from bitcoin_sprint.episode import Episode
from bitcoin_sprint.errors import BlockRefused, HeaderRefused, HostError, RingError
from bitcoin_sprint.frames import Level, MempoolAction, TipAction
from bitcoin_sprint.ingest.block_frames import BlockFrames
from bitcoin_sprint.ingest.body_fetcher import BodyFetcher
from bitcoin_sprint.ingest.chain_frames import OURSELVES, ChainFrames
from bitcoin_sprint.ingest.feed import (
    HEADERS_BATCH_MAX,
    NO_STAMPS,
    HeadersOutcome,
    Outcome,
    Source,
    SourceKind,
    Stamps,
    Verdict,
)
from bitcoin_sprint.ingest.header_intake import (
    HEADER_BYTES,
    TIME_AHEAD_S,
    Admission,
    HeaderIntake,
)
from bitcoin_sprint.ingest.intake_counters import IntakeCounters
from bitcoin_sprint.ingest.lone_blocks import LoneBlocks
from bitcoin_sprint.ingest.node_words import MempoolEvent, NodeWords
from bitcoin_sprint.ingest.orphans import Orphans
from bitcoin_sprint.ingest.tip import Step
from bitcoin_sprint.ingest.transaction_frames import TransactionFrames
from bitcoin_sprint.validate import (
    HeaderChain,
    HeaderEntry,
    ProvedBlock,
    check_header_alone,
    prove_block,
)

_log = logging.getLogger(__name__)

BODIES_WANTED_MAX: Final = 16
"""Bodies asked for at a time while catching up."""
SAVE_RETRY_S: Final = 1.0
BULK_PAUSE_S: Final = 5.0
"""How long after a full batch of new headers the next one is waited for."""


class Intake:
    """See the module. One thread; every argument is borrowed.

    ``nodes``: trusted nodes, the first one's word counts. ``clock``: seconds, monotonic;
    ``unix_time``: seconds, against which block times are checked. ``on_wait`` is called when a
    node's word begins to wait, and ``waits`` becomes true with it.
    """

    def __init__(
        self,
        network: Network,
        chain: HeaderChain,
        blocks: BlockFrames,
        transactions: TransactionFrames,
        fetcher: BodyFetcher,
        counters: IntakeCounters,
        *,
        nodes: Sequence[Source] = (),
        clock: Callable[[], float] = time.monotonic,
        unix_time: Callable[[], float] = time.time,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self.network = network
        self.chain = chain
        self._blocks = blocks
        self._transactions = transactions
        self._fetcher = fetcher
        self._counters = counters
        self._clock = clock
        self._unix_time = unix_time
        self._headers = HeaderIntake(chain, network)
        self._orphans = Orphans()
        self._lone_blocks = LoneBlocks(network, blocks)
        self._chain_frames = ChainFrames(
            network, chain, self._headers, blocks, counters, unix_time()
        )
        connected = self._chain_frames.recovered(Level.CONNECTED)
        self._words = NodeWords(chain, self, nodes, clock, connected, on_wait)
        self._bulk_until: float | None = None
        self._bulk_source = OURSELVES
        self._saving: Episode[str] = Episode("header chain", clock=clock)
        self._save_at = 0.0
        self._clock_watch: Episode[str] = Episode("host clock", clock=clock)

    # --- what feeds say -----------------------------------------------------------------------

    def on_headers(
        self, source: Source, headers: Sequence[bytes], stamps: Stamps = NO_STAMPS
    ) -> HeadersOutcome:
        """Admit headers and publish what is believed; say which bodies this feed fetches now."""
        if source.trusted:
            for header in headers:  # a node gives those of its own best chain
                self._allow(source, header[4:36])
        admission = self._headers.admit(source, headers, self._unix_time())
        is_full = len(headers) >= HEADERS_BATCH_MAX
        more = is_full and admission.accepted + admission.held == len(headers)
        # A full batch of news is part of a longer way: only its end matters to readers.
        is_bulk = more and bool(admission.entered)
        if is_bulk:
            self._bulk_until = self._clock() + BULK_PAUSE_S
            self._bulk_source = source
        elif not headers or self._is_best(admission.last):
            self._bulk_until = None
        self._after_admission(source, admission, stamps)
        if len(admission.entered) > 1:
            self._save_headers()  # a successor could not read them all out of the ring
        return HeadersOutcome(
            accepted=admission.accepted,
            unknown_parent=admission.unknown_parent,
            refused=admission.refused,
            wanted=self._fetcher.book(self._missing(), source),
            more=more,
            punish=admission.is_lie_of(source),
        )

    def on_block(
        self, source: Source, raw: bytes | memoryview, stamps: Stamps = NO_STAMPS
    ) -> Outcome:
        """Prove a block and publish it, if it is the first proved copy."""
        if len(raw) <= HEADER_BYTES:
            self._counters.block_refused(source)
            return Outcome(Verdict.REFUSED, reason="bad-block-length", punish=True)
        header = bytes(raw[:HEADER_BYTES])
        hash = self.network.block_hash(header)
        if self._is_duplicate(hash):
            self._counters.block_duplicate(source)
            return Outcome(Verdict.DUPLICATE, hash)
        if self._chain_frames.is_refused(hash):
            return Outcome(Verdict.REFUSED, hash, "retracted")
        entry = self.chain.get(hash)
        if entry is None:
            outcome = self._admit_header_of(source, hash, header, raw, stamps)
            if outcome is not None:
                return outcome
            entry = self.chain.get(hash)
        if entry is None or not self._is_welcome(source, entry):
            self._counters.blocks_held.add()
            return Outcome(Verdict.HELD, hash, "low-work")
        return self._prove_and_publish(source, entry, raw, stamps)

    def on_transaction(
        self,
        source: Source,
        raw: bytes | memoryview,
        stamps: Stamps = NO_STAMPS,
        *,
        verified: bool = False,
    ) -> Outcome:
        """Publish a transaction, if it is the first copy; ``verified``: a node accepted it."""
        level = Level.CONNECTED if verified and source.trusted else Level.UNVERIFIED
        outcome = self._transactions.take(source, raw, stamps, level)
        self._counters.transaction(source, outcome, stamps)
        return outcome

    def on_mempool(
        self,
        source: Source,
        action: MempoolAction,
        txid: bytes,
        mempool_sequence: int,
        raw: bytes | None = None,
        stamps: Stamps = NO_STAMPS,
    ) -> None:
        """Publish the transaction, where it is new, and the change in the node's own order."""
        if raw is not None and action is MempoolAction.ADDED:
            self.on_transaction(source, raw, stamps, verified=True)
        event = MempoolEvent(action, txid, mempool_sequence, raw or b"", stamps)
        self._words.on_mempool(source, event)

    def on_node_connected(self, source: Source, tip: bytes | None) -> None:
        """A node is reachable (again); its block ``tip`` is asked for if we don't know it."""
        if source.trusted and tip is not None:
            self._allow(source, tip)
        self._words.on_connected(source, tip)
        if tip is not None and not self.knows_header(tip):
            self._fetcher.demand(tip, source)

    def on_node_lost(self, source: Source) -> None:
        """A node can't be reached any more."""
        self._words.on_lost(source)

    def on_node_tip(self, source: Source, action: TipAction, hash: bytes) -> None:
        """A node connected or disconnected a block."""
        if source.trusted and action is TipAction.CONNECTED:
            self._allow(source, hash)
        self._words.on_tip(source, action, hash)
        if source != self._words.active and not self.knows_header(hash):
            self._fetcher.demand(hash, source)

    def on_node_refused(self, source: Source, hash: bytes, reason: str) -> None:
        """A trusted node found a block invalid: withdraw it and what builds on it.

        The node names the end of a branch. What lies below it there and has more work than the
        node's own tip is refused as well: the node would have connected it.
        """
        entry = self.chain.get(hash)
        tip = self._words.tip if source == self._words.active else None
        while entry is not None and tip is not None:
            parent = self.chain.get(entry.parent)
            if parent is None or parent.work <= tip.work:
                break
            entry = parent
        hash = entry.hash if entry is not None else hash
        if source.trusted and entry is not None and not self._chain_frames.is_refused(hash):
            self._chain_frames.refuse(entry, reason, source, Level.CONNECTED)
            self._ask_for_missing()

    def on_body_failed(self, source: Source, hash: bytes) -> None:
        """A source will not deliver a body that it was asked for: ask another."""
        self._fetcher.failed(hash, source)

    # --- what feeds ask -----------------------------------------------------------------------

    def wants_body(self, hash: bytes) -> bool:
        """Return whether the body is still wanted from anyone."""
        return hash in self._fetcher

    def knows_header(self, hash: bytes) -> bool:
        """Return whether the header is in the chain or held."""
        return self._headers.knows(hash)

    def wants_transaction(self, hash: bytes) -> bool:
        """Return whether no transaction of this txid or wtxid was published yet."""
        return not self._transactions.knows(hash)

    def locator(self) -> list[bytes]:
        """Return block hashes for ``getheaders``, newest first."""
        return list(self.chain.locator(self.chain.best.hash))

    def body(self, hash: bytes) -> bytes | None:
        """Return a recent block's raw bytes, while they are in the ring."""
        return self._blocks.body(hash)

    @property
    def tip(self) -> HeaderEntry:
        """The tip of level ``merkle``."""
        return self._chain_frames.tip

    @property
    def connected_tip(self) -> HeaderEntry | None:
        """The tip of level ``connected``."""
        return self._words.tip

    @property
    def waits(self) -> bool:
        """Whether something waits that milliseconds count for: then ``tick`` is due every 25 ms."""
        return self._bulk_until is not None or self._words.waits or len(self._fetcher) > 0

    def tick(self) -> None:
        """Go on where time has passed; to be called several times a second."""
        if self._bulk_until is not None and self._clock() >= self._bulk_until:
            self._bulk_until = None
            self._chain_frames.publish_headers([], self._bulk_source)  # it stalled; its word stands
        for source, header in self._headers.future.take_due(self._unix_time()):
            self._after_admission(source, self._headers.admit(source, [header], self._unix_time()))
        self._words.tick()
        self._ask_for_missing()
        self._fetcher.tick()
        self._save_headers()
        self._look_at_clock()
        self._counters.follow(self._headers, self._words, self._fetcher, self.tip)

    # --- what the words of nodes need (WordSink) ----------------------------------------------

    def publish_node_step(self, step: Step, source: Source) -> None:
        """Publish a TIP frame of level ``connected``."""
        self._chain_frames.publish_node_step(step, source)

    def publish_mempool(self, event: MempoolEvent, source: Source) -> None:
        """Publish a MEMPOOL frame."""
        level = Level.CONNECTED if source.trusted else Level.UNVERIFIED
        self._transactions.publish_mempool(event, source, level)
        self._counters.mempool_published.add()

    def has_body(self, hash: bytes) -> bool:
        """Return whether the block's BLOCK frame is in the ring."""
        return self._blocks.block_sequence(hash) != 0

    def demand_body(self, hash: bytes, source: Source) -> None:
        """Ask for a body that a node's word needs."""
        self._fetcher.demand(hash, source)

    # --- inside -------------------------------------------------------------------------------

    def _is_duplicate(self, hash: bytes) -> bool:
        """Proved before, and not asked for again because the ring has overwritten it."""
        return self._blocks.block_published(hash) and hash not in self._fetcher

    def _is_welcome(self, source: Source, entry: HeaderEntry) -> bool:
        """Return whether a body is taken: near the tip, asked for, or from a file of ours."""
        is_asked = entry.hash in self._fetcher or source.kind is SourceKind.REPLAY
        return is_asked or self._headers.is_worthy(entry.work)

    def _admit_header_of(
        self, source: Source, hash: bytes, header: bytes, raw: bytes | memoryview, stamps: Stamps
    ) -> Outcome | None:
        """Admit the header of a block that came before it; None when it entered the chain."""
        admission = self._headers.admit(source, [header], self._unix_time())
        if source.kind is SourceKind.REPLAY and not admission.accepted:
            outcome = self._lone_blocks.take(source, raw, stamps)
            self._counters.block(source, outcome, stamps)
            return outcome
        if admission.unknown_parent is not None:
            return self._keep_orphan(source, hash, raw, stamps)
        self._after_admission(source, admission, stamps)
        if admission.refused is not None:
            self._counters.block_refused(source)
            is_lie = admission.is_lie_of(source)
            return Outcome(Verdict.REFUSED, hash, admission.refused, punish=is_lie)
        if admission.held:
            self._counters.blocks_held.add()
            reason = "time-too-new" if hash in self._headers.future else "low-work"
            return Outcome(Verdict.HELD, hash, reason)
        return None

    def _keep_orphan(
        self, source: Source, hash: bytes, raw: bytes | memoryview, stamps: Stamps
    ) -> Outcome:
        try:
            check_header_alone(raw[:HEADER_BYTES], self.network)
        except HeaderRefused as error:
            self._counters.block_refused(source)
            return Outcome(Verdict.REFUSED, hash, error.reason, punish=True)
        self._counters.blocks_orphan.add()
        self._orphans.add(source, hash, bytes(raw), stamps)
        return Outcome(Verdict.ORPHAN, hash, "prev-unknown")

    def _prove_and_publish(
        self, source: Source, entry: HeaderEntry, raw: bytes | memoryview, stamps: Stamps
    ) -> Outcome:
        started_ns = time.monotonic_ns()
        try:
            proved = prove_block(raw, self.network, height=entry.height)
        except BlockRefused as error:
            self._counters.block_refused(source)
            if error.mutated:
                self._fetcher.failed(entry.hash, source)
            else:
                # The header commits to what is wrong: no other copy could be right.
                self._fetcher.give_up(entry.hash)
                self._chain_frames.refuse(entry, error.reason, source, Level.MERKLE)
                self._ask_for_missing()
            return Outcome(Verdict.REFUSED, entry.hash, error.reason, punish=True)
        self._counters.prove_ns.record(time.monotonic_ns() - started_ns)
        self._publish_block(source, entry, raw, proved, stamps)
        return Outcome(Verdict.ACCEPTED, entry.hash)

    def _publish_block(
        self,
        source: Source,
        entry: HeaderEntry,
        raw: bytes | memoryview,
        proved: ProvedBlock,
        stamps: Stamps,
    ) -> None:
        height = entry.height
        try:
            self._blocks.publish_block(raw, proved, height=height, source=source, stamps=stamps)
        except RingError as error:
            # The ring is too small for it, and no other copy would fit: go on without the body.
            _log.error("block %s is not published: %s", entry.hash[::-1].hex(), error)
            self._counters.blocks_too_big.add()
        self._counters.block_won(source, stamps)
        self._fetcher.arrived(entry.hash)
        self._chain_frames.take_body(entry, source)
        self._words.drain()
        self._ask_for_missing()

    def _after_admission(
        self, source: Source, admission: Admission, stamps: Stamps = NO_STAMPS
    ) -> None:
        """Publish what entered the chain, and look at what it changes."""
        self._chain_frames.note_headers(admission.entered)
        if admission.refused is not None:
            self._counters.headers_refused.add()
        if self._bulk_until is not None:
            return
        self._chain_frames.publish_headers(admission.entered, source, stamps)
        for orphan in self._orphans.take_ready(self.chain):
            self.on_block(orphan.source, orphan.raw, orphan.stamps)
        self._words.drain()

    def _save_headers(self) -> None:
        if self._clock() < self._save_at:
            return
        """Save the header chain; a disk that refuses is told of once, and costs a slow restart."""
        try:
            self.chain.save()
        except HostError as error:
            self._save_at = self._clock() + SAVE_RETRY_S
            self._saving.fail("disk", f"{error}; it goes on in memory")
        else:
            self._saving.end()

    def _look_at_clock(self) -> None:
        """Tell of blocks that wait for their time to come: most likely it is our clock's fault."""
        future = self._headers.future
        if not future:
            self._clock_watch.end()
            return
        ahead_s = future.due_last - self._unix_time() + TIME_AHEAD_S
        self._clock_watch.fail(
            "behind",
            f"a block's time is {ahead_s / 3600:.1f} h ahead of it, and the block held until it "
            "is 2 h ahead; is the clock right? (timedatectl)",
            is_attempt=False,
        )

    def _is_best(self, entry: HeaderEntry | None) -> bool:
        return entry is not None and entry.hash == self.chain.best.hash

    def _missing(self) -> list[bytes]:
        """Return the bodies that the tip lacks; asking for any others is dropped."""
        is_bulk = self._bulk_until is not None
        missing = [] if is_bulk else self._chain_frames.missing(BODIES_WANTED_MAX)
        self._fetcher.retain(missing)
        return missing

    def _ask_for_missing(self) -> None:
        self._fetcher.want(self._missing())

    def _allow(self, source: Source, hash: bytes) -> None:
        """Take back that a block was refused: a trusted node connected it."""
        entry = self.chain.get(hash) if self._chain_frames.is_refused(hash) else None
        if entry is not None:
            self._chain_frames.allow(entry, source)
