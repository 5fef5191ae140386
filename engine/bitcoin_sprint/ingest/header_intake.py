"""Which headers are believed: the gate between what sources say and the header chain.

A header enters the chain when its parent is there, its proof of work meets what the chain
requires, and the chain with it has at least the tip's work less 144 blocks' work. Below that it
is held back (``held_headers``), with everything that builds on it, until the headers held
together reach the bound. This gate publishes nothing; it says what entered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from bitcoin_sprint.chains import Network
from bitcoin_sprint.errors import HeaderRefused
from bitcoin_sprint.ingest.feed import Source
from bitcoin_sprint.ingest.held_headers import ForkHeaders, FutureHeaders, HeldHeader
from bitcoin_sprint.validate import HeaderChain, HeaderEntry, check_header_alone, work_of

HEADER_BYTES: Final = 80
FORK_DEPTH: Final = 144
"""Blocks' work, at the tip's difficulty, by which a chain may lie below the tip."""
TIME_AHEAD_S: Final = 2 * 60 * 60
TOO_NEW: Final = "time-too-new"
UNKNOWN_PARENT: Final = "prev-unknown"
NOT_LIES: Final = frozenset({"bad-prevblk", "too-many-side-headers", "too-many-headers"})
"""Refused for our own reasons: a node we trust refused a block below, or our memory is full."""


class Admission(msgspec.Struct):
    """What became of a run of headers.

    ``entered``: new in the chain, oldest first (held ones released by this run among them);
    ``accepted`` counts those that are in the chain now, new or known; ``held`` those held back;
    ``last``: the last one that is in the chain.
    """

    entered: list[HeaderEntry] = msgspec.field(default_factory=list)
    accepted: int = 0
    held: int = 0
    last: HeaderEntry | None = None
    unknown_parent: bytes | None = None
    refused: str | None = None
    liar: Source | None = None

    def is_lie_of(self, source: Source) -> bool:
        """Return whether ``source`` itself brought the header that was refused."""
        return self.liar is not None and self.liar.index == source.index


class HeaderIntake:
    """Admits headers to ``chain``. One thread."""

    def __init__(self, chain: HeaderChain, network: Network) -> None:
        self._chain = chain
        self._network = network
        self.forks = ForkHeaders()
        self.future = FutureHeaders()

    def knows(self, hash: bytes) -> bool:
        """Return whether a header is in the chain or held."""
        return self._chain.get(hash) is not None or self.is_held(hash)

    def is_held(self, hash: bytes) -> bool:
        """Return whether a header is held back."""
        return hash in self.forks or hash in self.future

    def is_worthy(self, work: int) -> bool:
        """Return whether a chain of ``work`` is near enough to the best one to be believed."""
        best = self._chain.best
        return work >= best.work - FORK_DEPTH * _work_alone(best.header)

    def admit(self, source: Source, headers: Sequence[bytes], now: float) -> Admission:
        """Admit ``headers`` (oldest first, each building on the one before) at Unix time ``now``.

        Stops at the first that is wrong or has no known parent.
        """
        admission = Admission()
        fault = self._fault_of_form(headers)
        if fault is not None:
            admission.refused, admission.liar = fault, source
            return admission
        for position, header in enumerate(headers):
            hash = self._network.block_hash(header)
            known = self._chain.get(hash)
            if known is not None:
                admission.accepted += 1
                admission.last = known
                continue
            if hash in self.future:
                admission.held += 1
                continue
            self._admit_new(source, headers[position:], now, admission)
            break
        return admission

    def _admit_new(
        self, source: Source, headers: Sequence[bytes], now: float, admission: Admission
    ) -> None:
        parent_hash = headers[0][4:36]
        parent = self._chain.get(parent_hash)
        if parent is not None and self.is_worthy(parent.work):
            self._enter(source, headers, now, admission)
        elif parent is not None or parent_hash in self.forks:
            base = parent or self.forks.get(parent_hash)
            self._admit_fork(source, headers, base.work if base else 0, now, admission)
        elif parent_hash in self.future:
            self._hold_future(source, headers, admission)
        else:
            admission.unknown_parent = parent_hash

    def _admit_fork(
        self, source: Source, headers: Sequence[bytes], work: int, now: float, admission: Admission
    ) -> None:
        """Hold a fork back, or let all of it into the chain once it has work enough."""
        run: list[HeldHeader] = []
        for header in headers:
            try:
                hash = check_header_alone(header, self._network)
            except HeaderRefused as error:
                admission.refused, admission.liar = error.reason, source
                return
            work += _work_alone(header)
            run.append(HeldHeader(hash, bytes(header), work, source))
        branch = [*self.forks.branch_to(headers[0][4:36]), *run]
        if not self.is_worthy(work):
            for held in run:
                if not self.forks.add(held):
                    return
                admission.held += 1
            return
        for held in branch:
            self.forks.discard(held.hash)
        for held in branch:
            self._enter(held.source, [held.header], now, admission)
            if admission.refused is not None:
                return

    def _enter(
        self, source: Source, headers: Sequence[bytes], now: float, admission: Admission
    ) -> None:
        """Add headers whose parent is in the chain, until one is refused."""
        for position, header in enumerate(headers):
            try:
                entry = self._chain.add(header, now)
            except HeaderRefused as error:
                if error.reason == TOO_NEW:
                    self._hold_future(source, headers[position:], admission)
                elif error.reason == UNKNOWN_PARENT:
                    admission.unknown_parent = header[4:36]
                else:
                    admission.refused = error.reason
                    admission.liar = None if error.reason in NOT_LIES else source
                return
            admission.accepted += 1
            admission.last = entry
            if entry.new:
                admission.entered.append(entry)

    def _hold_future(self, source: Source, headers: Sequence[bytes], admission: Admission) -> None:
        for header in headers:
            due = float(int.from_bytes(header[68:72], "little") - TIME_AHEAD_S)
            if not self.future.add(source, self._network.block_hash(header), bytes(header), due):
                return
            admission.held += 1

    def _fault_of_form(self, headers: Sequence[bytes]) -> str | None:
        previous: bytes | None = None
        for header in headers:
            if len(header) != HEADER_BYTES:
                return "bad-header-length"
            if previous is not None and header[4:36] != previous:
                return "non-continuous-headers"
            previous = self._network.block_hash(header)
        return None


def _work_alone(header: bytes) -> int:
    """Return the work that one header stands for, not counting those before it."""
    return work_of(int.from_bytes(header[72:76], "little"))
