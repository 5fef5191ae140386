"""The tip of level ``merkle``: most work, first seen, every body on the way proved.

``BestTip`` decides, from the header chain and from which bodies were proved, which block the tip
is, and spells out each move block by block. It publishes nothing and fetches nothing.

Invariants: ``tip`` is linked, or where we started. When a block is linked, its parent is linked or
is ``_base`` or an ancestor of it; ``_base`` is an ancestor of ``tip`` that is vouched for without
its body (where we started, or what is too deep to matter). The tip moves only to strictly more
work, so of two equal ones the first to be proved stays; only a refused block makes it fall back.
What was refused, the header chain remembers (``HeaderChain.condemn``).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from bitcoin_sprint.frames import TipAction
from bitcoin_sprint.ingest.first_seen import BoundedMap
from bitcoin_sprint.validate import HeaderChain, HeaderEntry

DEPTH_KEPT: Final = 288
"""How far below the tip proved blocks are remembered, and how far behind we catch up by bodies
(what Bitcoin Core's pruned nodes serve). Further behind, the tip jumps."""
START_DEPTH: Final = 6
"""Blocks below the best header with which a tip that has no history starts, or goes on."""
WAITING_MAX: Final = 1_024
HEADS_MAX: Final = 16


class Step(NamedTuple):
    """One block's move of a tip."""

    action: TipAction
    entry: HeaderEntry


def steps_between(chain: HeaderChain, origin: bytes, target: bytes) -> list[Step]:
    """Return the moves from block ``origin`` to ``target``: newest disconnected first."""
    disconnect, connect = chain.path(origin, target)
    return [
        *(Step(TipAction.DISCONNECTED, entry) for entry in disconnect),
        *(Step(TipAction.CONNECTED, entry) for entry in connect),
    ]


def is_ancestor(chain: HeaderChain, ancestor: HeaderEntry, hash: bytes) -> bool:
    """Return whether the block ``hash`` is ``ancestor`` or stands on it."""
    entry = chain.get(hash)
    if entry is None or entry.height < ancestor.height:
        return False
    return chain.ancestor(hash, ancestor.height).hash == ancestor.hash


class BestTip:
    """Which block the tip is. One thread."""

    def __init__(self, chain: HeaderChain, start: HeaderEntry) -> None:
        self._chain = chain
        self.tip = start
        self._base = start
        self._linked: dict[bytes, HeaderEntry] = {}
        # Proved, but a block below is not yet: by the parent's hash.
        self._waiting: BoundedMap[list[HeaderEntry]] = BoundedMap(WAITING_MAX)
        self._proved: dict[bytes, HeaderEntry] = {}
        # The newest headers of each branch that has more work than the tip.
        self._heads: dict[bytes, HeaderEntry] = {}
        self._pruned_height = start.height

    def add_header(self, entry: HeaderEntry) -> None:
        """Take note of a header that was accepted; its body may now be wanted."""
        if entry.work <= self.tip.work or self.is_refused(entry.hash):
            return
        self._heads.pop(entry.parent, None)
        self._heads[entry.hash] = entry
        if len(self._heads) > HEADS_MAX:
            weakest = min(self._heads.values(), key=lambda head: head.work)
            del self._heads[weakest.hash]

    def add_body(self, entry: HeaderEntry) -> list[Step]:
        """Take note of a proved body; return how the tip moves by it, oldest move first."""
        if entry.hash in self._proved or self.is_refused(entry.hash):
            return []
        self._proved[entry.hash] = entry
        if entry.work > self.tip.work:
            # Of a block that came alone, without its header before: what it lacks is wanted too.
            self._heads.setdefault(entry.hash, entry)
        if not self._is_linked(entry.parent):
            siblings = self._waiting.get(entry.parent) or []
            self._waiting[entry.parent] = [*siblings, entry]
            return []
        return self._move_to(self._link(entry))

    def missing(self, limit: int) -> list[bytes]:
        """Return at most ``limit`` blocks whose bodies the tip lacks: best branch, oldest first."""
        wanted: list[bytes] = []
        heads = sorted(self._heads.values(), key=lambda head: head.work, reverse=True)
        for head in heads:
            lacking = self._missing_below(head)
            wanted.extend(hash for hash in lacking if hash not in wanted)
            if len(wanted) >= limit:
                break
        return wanted[:limit]

    def refuse(self, hash: bytes) -> list[Step]:
        """Leave the block ``hash`` and all on it out from now on; return how the tip moves."""
        entry = self._chain.get(hash)
        if entry is None or self._chain.is_condemned(hash):
            return []
        self._chain.condemn(hash)
        for known in (self._linked, self._heads, self._proved):
            for withdrawn in [key for key in known if self._chain.is_condemned(key)]:
                del known[withdrawn]
        if not self._chain.is_condemned(self.tip.hash):
            return []
        origin = self.tip.hash
        self._fall_back_below(entry)
        self.add_header(self._chain.best)  # of the rest; its body may never have been asked for
        return steps_between(self._chain, origin, self.tip.hash)

    def allow(self, hash: bytes) -> None:
        """Take a refusal back (the node that refused has connected the block after all)."""
        self._chain.absolve(hash)
        self.add_header(self._chain.best)

    def is_refused(self, hash: bytes) -> bool:
        """Return whether the block or one below it was refused."""
        return hash in self._chain and self._chain.is_condemned(hash)

    def jump(self, entry: HeaderEntry) -> None:
        """Stand on ``entry`` without its body: the chain is too far ahead to be caught up with."""
        self.tip = self._base = entry
        self._linked.clear()
        self._waiting = BoundedMap(WAITING_MAX)
        self._proved.clear()
        self._heads = {hash: head for hash, head in self._heads.items() if head.work > entry.work}
        self._pruned_height = entry.height

    def _is_linked(self, hash: bytes) -> bool:
        if hash in self._linked:
            return True
        entry = self._chain.get(hash)
        if entry is None or entry.height > self._base.height:
            return False
        return is_ancestor(self._chain, entry, self._base.hash)

    def _link(self, entry: HeaderEntry) -> HeaderEntry:
        """Link ``entry`` and what waited for it; return the one with most work, first linked."""
        best = entry
        ready = [entry]
        for linked in ready:  # grows as it goes; each proved block enters once
            self._linked[linked.hash] = linked
            if linked.work > best.work:
                best = linked
            ready.extend(self._waiting.pop(linked.hash) or ())
        return best

    def _move_to(self, best: HeaderEntry) -> list[Step]:
        if best.work <= self.tip.work:
            return []
        steps = steps_between(self._chain, self.tip.hash, best.hash)
        self.tip = best
        self._heads = {hash: head for hash, head in self._heads.items() if head.work > best.work}
        if not is_ancestor(self._chain, self._base, best.hash):
            # The fork leaves below what we started from: all below it is common ground.
            self._base = self._chain.ancestor(best.hash, best.height - _connects(steps))
        self._prune()
        return steps

    def _missing_below(self, head: HeaderEntry) -> list[bytes]:
        lacking: list[bytes] = []
        entry: HeaderEntry | None = head
        for _ in range(2 * DEPTH_KEPT):
            if entry is None or self._is_linked(entry.hash):
                break
            if entry.hash not in self._proved:
                lacking.append(entry.hash)
            entry = self._chain.get(entry.parent)
        lacking.reverse()
        return lacking

    def _fall_back_below(self, refused: HeaderEntry) -> None:
        """Put the tip on the best linked block left, or on the refused block's parent."""
        parent = self._chain.get(refused.parent)
        if parent is None:
            raise AssertionError("a refused block that was connected has a parent")
        best = parent
        for linked in self._linked.values():
            if linked.work > best.work:
                best = linked
        if self._base.height > parent.height and not is_ancestor(
            self._chain, self._base, best.hash
        ):
            self._base = parent
        self.tip = best

    def _prune(self) -> None:
        """Forget, now and then, what lies deeper than any reorganisation that we follow."""
        if self.tip.height - self._pruned_height < 2 * DEPTH_KEPT:
            return
        self._pruned_height = self.tip.height
        floor = self.tip.height - DEPTH_KEPT
        if self._base.height < floor:
            self._base = self._chain.ancestor(self.tip.hash, floor)
        for known in (self._linked, self._proved):
            for hash in [hash for hash, entry in known.items() if entry.height <= floor]:
                del known[hash]


def _connects(steps: list[Step]) -> int:
    return sum(step.action is TipAction.CONNECTED for step in steps)
