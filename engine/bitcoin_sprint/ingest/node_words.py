"""The words of trusted nodes: the tip of level ``connected``, and one mempool, in a node's order.

A node says one after the other which blocks it connected and disconnected and what its mempool
gained and lost. That order is kept to the end: while a block's body is still on its way, what the
node said after it waits. The wait is bounded; then the TIP frame goes out with block sequence 0.

One node's word counts at a time. That is the first configured one, unless it has been unreachable
for ``FAILOVER_AFTER_S``; then the next one's does, and the first gets it back as soon as its chain
has no less work than what was published. Whenever the word goes to another node, or a node comes
back on another tip, the way there is spelled out from the header chain.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from bitcoin_sprint.frames import MempoolAction, TipAction
from bitcoin_sprint.ingest.feed import Source, Stamps
from bitcoin_sprint.ingest.tip import DEPTH_KEPT, Step, is_ancestor, steps_between
from bitcoin_sprint.validate import HeaderChain, HeaderEntry

FAILOVER_AFTER_S: Final = 2.0
GRACE_S: Final = 0.03
"""How long a body may be on its way by itself (the node's ``rawblock``) before it is asked for."""
BODY_WAIT_S: Final = 10.0
HEADER_WAIT_S: Final = 30.0
"""How long a word about a block without a header is kept; a first header sync takes longer."""
EVENTS_MAX: Final = 100_000
EVENT_BYTES_MAX: Final = 64 << 20


class TipEvent(NamedTuple):
    """``action`` None: the node was reached, and this is its tip."""

    action: TipAction | None
    hash: bytes


class MempoolEvent(NamedTuple):
    """The node's mempool gained or lost a transaction."""

    action: MempoolAction
    txid: bytes
    mempool_sequence: int
    raw: bytes
    stamps: Stamps


class WordSink(Protocol):
    """What is done with a word once its turn has come."""

    def publish_node_step(self, step: Step, source: Source) -> None:
        """Publish a TIP frame of level ``connected``."""
        ...

    def publish_mempool(self, event: MempoolEvent, source: Source) -> None:
        """Publish a MEMPOOL frame."""
        ...

    def has_body(self, hash: bytes) -> bool:
        """Whether the block's BLOCK frame is in the ring."""
        ...

    def demand_body(self, hash: bytes, source: Source) -> None:
        """Ask for a block's body (its header comes with it), of the node itself first."""
        ...


class _Node:
    """One trusted node. Only the one whose word counts has events waiting."""

    def __init__(self, source: Source, now: float) -> None:
        self.source = source
        self.tip: bytes | None = None
        self.events: deque[TipEvent | MempoolEvent] = deque()
        self.event_bytes = 0
        self.is_up = False
        self.lost_at = now

    def push(self, event: TipEvent | MempoolEvent) -> None:
        self.events.append(event)
        self.event_bytes += len(event.raw) if isinstance(event, MempoolEvent) else 0

    def pop(self) -> None:
        event = self.events.popleft()
        self.event_bytes -= len(event.raw) if isinstance(event, MempoolEvent) else 0

    def forget(self) -> None:
        self.events.clear()
        self.event_bytes = 0

    @property
    def is_full(self) -> bool:
        return len(self.events) > EVENTS_MAX or self.event_bytes > EVENT_BYTES_MAX


class NodeWords:
    """Turns nodes' words into frames, through ``sink``. One thread.

    ``tip`` is where the TIP frames of level ``connected`` stand, None when none went out yet: then
    the first word is taken as the start, and only what changes from there becomes frames (as a
    node's own notifications have it). ``clock``: seconds, monotonic. ``on_wait`` is called when
    ``waits`` becomes true.
    """

    def __init__(
        self,
        chain: HeaderChain,
        sink: WordSink,
        nodes: Sequence[Source],
        clock: Callable[[], float],
        tip: HeaderEntry | None = None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._chain = chain
        self._on_wait = on_wait
        self._sink = sink
        self._clock = clock
        self._nodes = {source.index: _Node(source, clock()) for source in nodes}
        self._active = next(iter(self._nodes.values()), None)
        self._steps: deque[Step] = deque()
        self._waiting_since: float | None = None
        self.tip = tip
        self.jumps_count = 0
        self.dropped_count = 0
        self.unseen_bodies_count = 0

    @property
    def waits(self) -> bool:
        """Whether a word waits for the header or body that it speaks of."""
        return self._waiting_since is not None

    @property
    def active(self) -> Source | None:
        """The node whose word counts."""
        return self._active.source if self._active else None

    def on_connected(self, source: Source, tip: bytes | None) -> None:
        """The node is reachable; ``tip`` is its best block, where it said so."""
        node = self._nodes.get(source.index)
        if node is None:
            return
        node.is_up = True
        if tip is not None:
            node.tip = tip
            if node is self._active:
                node.push(TipEvent(None, tip))
        self.drain()

    def on_lost(self, source: Source) -> None:
        """The node can't be reached any more."""
        node = self._nodes.get(source.index)
        if node is not None and node.is_up:
            node.is_up = False
            node.lost_at = self._clock()

    def on_tip(self, source: Source, action: TipAction, hash: bytes) -> None:
        """The node connected or disconnected a block."""
        node = self._nodes.get(source.index)
        if node is None:
            return
        node.is_up = True
        if action is TipAction.CONNECTED:
            node.tip = hash
        else:
            entry = self._chain.get(hash)
            node.tip = entry.parent if entry is not None else None
        if node is self._active:
            node.push(TipEvent(action, hash))
            self.drain()

    def on_mempool(self, source: Source, event: MempoolEvent) -> None:
        """The node's mempool changed. Only the word that counts becomes frames."""
        node = self._nodes.get(source.index)
        if node is not None and node is self._active:
            node.push(event)
            self.drain()

    def tick(self) -> None:
        """Go on where a bound has passed; to be called several times a second."""
        self._elect()
        self.drain()

    def drain(self) -> None:
        """Publish what can be published now."""
        node = self._active
        while node is not None:
            if self._steps:
                if not self._take_step(node):
                    return
            elif not node.events or not self._take_event(node):
                return

    def _take_step(self, node: _Node) -> bool:
        """Publish the next move of the tip; False while its body is awaited."""
        step = self._steps[0]
        if not self._sink.has_body(step.entry.hash):
            if not self._waited(step.entry.hash, node, BODY_WAIT_S):
                return False
            self.unseen_bodies_count += 1
        self._steps.popleft()
        self._waiting_since = None
        entry = step.entry
        if step.action is TipAction.CONNECTED:
            self.tip = entry
        else:
            self.tip = self._chain.get(entry.parent)
        self._sink.publish_node_step(step, node.source)
        return True

    def _take_event(self, node: _Node) -> bool:
        """Work on the node's next word; False while its header is awaited."""
        event = node.events[0]
        if isinstance(event, MempoolEvent):
            node.pop()
            self._sink.publish_mempool(event, node.source)
            return True
        entry = self._chain.get(event.hash)
        if entry is None:
            if not self._waited(event.hash, node, HEADER_WAIT_S):
                return False
            self.dropped_count += 1
        else:
            self._steps.extend(self._steps_for(event.action, entry))
        node.pop()
        self._waiting_since = None
        return True

    def _waited(self, hash: bytes, node: _Node, bound_s: float) -> bool:
        """Return whether the wait for ``hash`` is over; asks for it when the grace is."""
        now = self._clock()
        if self._waiting_since is None:
            self._waiting_since = now
            self._on_wait()
        waited = now - self._waiting_since
        if waited >= bound_s or node.is_full:
            return True
        if waited >= GRACE_S:
            self._sink.demand_body(hash, node.source)
        return False

    def _steps_for(self, action: TipAction | None, entry: HeaderEntry) -> list[Step]:
        tip = self.tip
        if action is TipAction.DISCONNECTED:
            if tip is None:
                self.tip = self._chain.get(entry.parent)
                return [Step(action, entry)]
            if not is_ancestor(self._chain, entry, tip.hash):
                return []
            return steps_between(self._chain, tip.hash, entry.parent)
        if tip is None:
            self.tip = entry
            return [Step(action, entry)] if action is TipAction.CONNECTED else []
        if abs(entry.height - tip.height) > DEPTH_KEPT:
            self.jumps_count += 1
            return [Step(TipAction.CONNECTED, entry)]
        return steps_between(self._chain, tip.hash, entry.hash)

    def _elect(self) -> None:
        """Give the word to the node that should have it."""
        for node in self._nodes.values():
            if node is self._active:
                if node.is_up or self._clock() - node.lost_at < FAILOVER_AFTER_S:
                    return
            elif node.is_up and (self._may_take_over(node)):
                self._hand_over(node)
                return

    def _may_take_over(self, node: _Node) -> bool:
        """A node may have the word when it is no step back, or when the one that has it is gone."""
        active = self._active
        if active is None or (
            not active.is_up and self._clock() - active.lost_at >= FAILOVER_AFTER_S
        ):
            return True
        entry = self._chain.get(node.tip) if node.tip is not None else None
        return entry is not None and (self.tip is None or entry.work >= self.tip.work)

    def _hand_over(self, node: _Node) -> None:
        if self._active is not None:
            self._active.forget()
        self._steps.clear()
        self._waiting_since = None
        self._active = node
        if node.tip is not None:
            node.push(TipEvent(None, node.tip))
