"""The best chain as readers see it: HEADER frames in order, TIP frames of level ``merkle``.

Brings together the header chain, the tip (``tip``) and the frames (``block_frames``): which headers
go out when some were admitted, how a proved body moves the tip, what a trusted node's refusal
takes back. A stream of TIP frames is continuous: each connected block stands on the one before.
Only where the chain is too far ahead to be caught up with, and at the start of a session, it jumps:
then a TIP of level ``pow`` names the block that the next one stands on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final

from bitcoin_sprint.chains import Network
from bitcoin_sprint.errors import HeaderRefused
from bitcoin_sprint.frames import Level, TipAction
from bitcoin_sprint.ingest.block_frames import BlockFrames
from bitcoin_sprint.ingest.feed import NO_STAMPS, Source, SourceKind, Stamps
from bitcoin_sprint.ingest.header_intake import HeaderIntake
from bitcoin_sprint.ingest.intake_counters import IntakeCounters
from bitcoin_sprint.ingest.tip import (
    DEPTH_KEPT,
    START_DEPTH,
    BestTip,
    Step,
    is_ancestor,
    steps_between,
)
from bitcoin_sprint.validate import HeaderChain, HeaderEntry

OURSELVES: Final = Source(0, "sprint", SourceKind.REPLAY)
"""Stands in the rings' source table for what follows from no one source's word."""


class ChainFrames:
    """See the module. One thread; every argument is borrowed. ``now``: Unix time."""

    def __init__(
        self,
        network: Network,
        chain: HeaderChain,
        headers: HeaderIntake,
        blocks: BlockFrames,
        counters: IntakeCounters,
        now: float,
    ) -> None:
        self._network = network
        self._chain = chain
        self._headers = headers
        self._blocks = blocks
        self._counters = counters
        self._recover_headers(now)
        self._lost_tip: bytes | None = None
        self._tip = BestTip(chain, self._start_of_tip())
        self._tip.add_header(chain.best)
        if self._lost_tip is None:
            self._recover_bodies()

    @property
    def tip(self) -> HeaderEntry:
        """The tip of level ``merkle``."""
        return self._tip.tip

    def recovered(self, level: Level) -> HeaderEntry | None:
        """Return where the TIP frames of ``level`` stood when this process took the ring over."""
        hash = self._blocks.tips.get(level)
        return self._chain.get(hash) if hash is not None else None

    def missing(self, limit: int) -> list[bytes]:
        """Return at most ``limit`` blocks whose bodies the tip lacks, oldest first."""
        return self._tip.missing(limit)

    def is_refused(self, hash: bytes) -> bool:
        """Return whether the block or one below it was refused."""
        return self._tip.is_refused(hash)

    def note_headers(self, entered: Sequence[HeaderEntry]) -> None:
        """Take note of headers that entered the chain, before ``publish_headers``."""
        for entry in entered:
            self._tip.add_header(entry)

    def publish_headers(
        self, entered: Sequence[HeaderEntry], source: Source, stamps: Stamps = NO_STAMPS
    ) -> None:
        """Publish new headers, and those below the best one that were held back until now."""
        if self._lost_tip is not None and entered:
            self._find_lost_tip(self._lost_tip, source)
        best = self._chain.best
        if len(entered) == 1 and entered[0].hash == best.hash and best.parent == self.tip.hash:
            self.publish_header(best, source, stamps)  # every plain new block: nothing to look for
            return
        worthy = [entry for entry in entered if self._headers.is_worthy(entry.work)]
        for entry in sorted([*self._way_to_best(source), *worthy], key=_height):
            is_below_tip = is_ancestor(self._chain, entry, self.tip.hash)
            if not is_below_tip and not self._tip.is_refused(entry.hash):
                self.publish_header(entry, source, stamps)

    def publish_header(
        self, entry: HeaderEntry, source: Source, stamps: Stamps = NO_STAMPS
    ) -> None:
        """Publish the HEADER frame of ``entry``, unless it was."""
        if self._blocks.header_published(entry.hash):
            return
        self._blocks.publish_header(
            self._chain.header(entry.hash),
            hash=entry.hash,
            height=entry.height,
            source=source,
            stamps=stamps,
        )
        self._counters.header_won(source, stamps)

    def take_body(self, entry: HeaderEntry, source: Source) -> None:
        """Move the tip, if the proved body of ``entry`` does."""
        self._publish_steps(self._tip.add_body(entry), source)

    def publish_node_step(self, step: Step, source: Source) -> None:
        """Publish a TIP frame of level ``connected``."""
        self.publish_header(step.entry, source)
        self._blocks.publish_tip(step.action, step.entry, Level.CONNECTED, source.index)
        self._counters.tips_published.add()

    def refuse(self, entry: HeaderEntry, reason: str, source: Source, level: Level) -> None:
        """Withdraw a block and what builds on it: a trusted node refused it (``level`` connected),
        or no copy of it can be proved (merkle)."""
        steps = self._tip.refuse(entry.hash)
        for published in self._blocks.published_headers():
            withdrawn = self._chain.get(published)
            if withdrawn is None or not is_ancestor(self._chain, entry, published):
                continue
            word = reason if published == entry.hash else "bad-prevblk"
            if self._blocks.retract(withdrawn, word, source, level):
                self._counters.retracts_published.add()
        self._publish_steps(steps, source)

    def allow(self, entry: HeaderEntry, source: Source) -> None:
        """A node connected what it had refused: count it in again, with the body we have."""
        self._tip.allow(entry.hash)
        if self._blocks.block_sequence(entry.hash):
            self.take_body(entry, source)

    def _publish_steps(self, steps: Sequence[Step], source: Source) -> None:
        for step in steps:
            self.publish_header(step.entry, source)
            self._blocks.publish_tip(step.action, step.entry, Level.MERKLE, source.index)
            self._counters.tips_published.add()

    def _way_to_best(self, source: Source) -> list[HeaderEntry]:
        """Return the blocks from the tip to the best header; jumps where they are too many."""
        best = self._chain.best
        if self._blocks.header_published(best.hash) or self._tip.is_refused(best.hash):
            return []
        # A session that has no history yet owes its readers no way from there.
        far = DEPTH_KEPT if self._blocks.tips else START_DEPTH
        if best.height - self.tip.height > far:
            self._jump(source)
        way = steps_between(self._chain, self.tip.hash, best.hash)[-DEPTH_KEPT:]
        return [step.entry for step in way if step.action is TipAction.CONNECTED]

    def _jump(self, source: Source) -> None:
        """Leave blocks out; a TIP of level ``pow`` says where the chain goes on."""
        landing = self._below_best()
        self._tip.jump(landing)
        self.publish_header(landing, source)
        self._blocks.publish_tip(TipAction.CONNECTED, landing, Level.POW, source.index)
        self._counters.tip_jumps.add()

    def _find_lost_tip(self, lost: bytes, source: Source) -> None:
        """Go on from the tip that a killed predecessor published, now that headers came."""
        self._lost_tip = None
        entry = self._chain.get(lost)
        if entry is None:
            self._jump(source)
        else:
            self._tip.jump(entry)
            self._recover_bodies()

    def _recover_bodies(self) -> None:
        """Count in what a killed predecessor proved, and finish the move that it may have begun."""
        for hash in self._blocks.published_blocks():
            entry = self._chain.get(hash)
            if entry is not None:
                self.take_body(entry, OURSELVES)

    def _recover_headers(self, now: float) -> None:
        """Add headers that a killed predecessor published and could not save any more."""
        for header in self._blocks.recovered_headers:
            if self._chain.get(self._network.block_hash(header)) is None:
                with contextlib.suppress(HeaderRefused):
                    self._chain.add(header, now)
        self._blocks.recovered_headers.clear()

    def _start_of_tip(self) -> HeaderEntry:
        recovered = self.recovered(Level.MERKLE)
        if recovered is None:
            # Published, but its header was lost with the file: it may yet come from a source.
            self._lost_tip = self._blocks.tips.get(Level.MERKLE)
            return self._below_best()
        return recovered

    def _below_best(self) -> HeaderEntry:
        best = self._chain.best
        root = self._chain.root.height
        return self._chain.ancestor(best.hash, max(root, best.height - START_DEPTH))


def _height(entry: HeaderEntry) -> int:
    return entry.height
