"""One node's words in the node's order: its ``sequence`` topic, joined with its ``rawtx``.

Bitcoin Core says on ``sequence`` what it connected and disconnected (C, D) and what its mempool
gained and lost (A, R). The body of an A came just before on ``rawtx``. ``NodeOrder`` joins the two
and hands each word on at once, unless

- the body of an A was lost, or travels on another connection: then what follows waits until the
  body came or was fetched (None if the node has it no more);
- it is held: while the owner takes a snapshot of the node after a loss. Words that the snapshot
  holds already are left out on release: an A or R by its mempool sequence number, a C that names a
  block at or below the snapshot's tip until one above it comes.

What waits is bounded by ``EVENTS_MAX`` words. One asyncio thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, NamedTuple

from bitcoin_sprint.chains import Network
from bitcoin_sprint.errors import FeedError, TransactionRefused
from bitcoin_sprint.frames import MempoolAction, TipAction
from bitcoin_sprint.ingest.feed import NO_STAMPS, Sink, Source, Stamps
from bitcoin_sprint.validate import prove_transaction

EVENTS_MAX: Final = 200_000
STASH_MAX: Final = 20_000
STASH_BYTES_MAX: Final = 32 << 20
CONNECTED_MAX: Final = 2_000
FETCH_MAX: Final = 100
"""Bodies asked for at a time."""
BODY_GRACE_SECONDS: Final = 0.05
"""How long a body from another connection may take before it is fetched."""

_MEMPOOL_NUMBER = struct.Struct("<Q")

FetchBodies = Callable[[Sequence[bytes]], Awaitable[Sequence[bytes | None]]]


class Word(NamedTuple):
    """One message of ``sequence``. ``mempool_sequence`` is 0 for C and D."""

    action: TipAction | MempoolAction
    hash: bytes
    mempool_sequence: int
    stamps: Stamps


def parse_word(body: bytes | memoryview, stamps: Stamps) -> Word | None:
    """A message of ``sequence``, hash turned to internal byte order; None if it is malformed."""
    if len(body) < 33:
        return None
    hash, label = bytes(body[31::-1]), body[32]
    if label in (TipAction.CONNECTED, TipAction.DISCONNECTED) and len(body) == 33:
        return Word(TipAction(label), hash, 0, stamps)
    if label in (MempoolAction.ADDED, MempoolAction.REMOVED) and len(body) == 41:
        (number,) = _MEMPOOL_NUMBER.unpack_from(body, 33)
        return Word(MempoolAction(label), hash, number, stamps)
    return None


class BodyStash:
    """Raw transactions that came, until their A does. Hashed only where the newest isn't it."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._loose: deque[bytes] = deque()
        self._named: dict[bytes, bytes] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._loose) + len(self._named)

    def add(self, raw: bytes) -> None:
        self._loose.append(raw)
        self._bytes += len(raw)
        while len(self) > STASH_MAX or self._bytes > STASH_BYTES_MAX:
            if self._named:
                dropped = self._named.pop(next(iter(self._named)))
            else:
                dropped = self._loose.popleft()
            self._bytes -= len(dropped)

    def take(self, txid: bytes) -> bytes | None:
        """The body with this txid, and out of the stash with it."""
        if txid not in self._named:
            while self._loose:
                raw = self._loose.pop()
                try:
                    named, _ = prove_transaction(raw, self._network)
                except TransactionRefused:
                    self._bytes -= len(raw)
                    continue
                self._named[named] = raw
                if named == txid:
                    break
        found = self._named.pop(txid, None)
        if found is not None:
            self._bytes -= len(found)
        return found

    def clear(self) -> None:
        self._loose.clear()
        self._named.clear()
        self._bytes = 0


class NodeOrder:
    """See the module. ``fetch`` brings bodies by RPC; None: there is no RPC."""

    def __init__(
        self, sink: Sink, source: Source, network: Network, fetch: FetchBodies | None
    ) -> None:
        self._sink = sink
        self._source = source
        self._fetch = fetch
        self._stash = BodyStash(network)
        self._stash_line: object = None
        self._sequence_line: object = None
        self._queue: deque[Word] = deque()
        self._bodies: dict[bytes, bytes | None] = {}
        self._task: asyncio.Task[None] | None = None
        self._floor = 0
        self._settled: set[bytes] = set()
        self.expects_bodies = False
        """Set by the owner: the node publishes ``rawtx``, so that a body may be on its way."""
        self.is_held = False
        self.mempool: set[bytes] = set()
        """Txids in the node's mempool, and those mined in ``connected``."""
        self.mempool_sequence = 0
        """The newest number that was handed on."""
        self.connected: deque[bytes] = deque()
        """Blocks whose transactions may still be in ``mempool``, oldest first."""
        self.forgot_connected = False
        """``connected`` ran over its bound: ``mempool`` holds more than it should."""
        self.counts = {"bodies_fetched": 0, "bodies_missing": 0, "words_overflowed": 0}

    @property
    def waiting_count(self) -> int:
        return len(self._queue)

    def on_body(self, line: object, raw: bytes) -> None:
        """A message of ``rawtx``; ``line`` is the connection that it came by."""
        self._stash_line = line
        self._stash.add(raw)

    def on_word(self, line: object, word: Word) -> None:
        """A message of ``sequence``."""
        self._sequence_line = line
        if self.is_held or self._queue:
            if len(self._queue) >= EVENTS_MAX:
                self.counts["words_overflowed"] += 1
                return
            self._queue.append(word)
        elif not self._hand_on(word):
            self._queue.append(word)
            self._work()

    def hold(self) -> None:
        """Keep all words from now on until ``release``."""
        self.is_held = True

    def release(self, floor: int | None = None, settled: Collection[bytes] = ()) -> None:
        """Go on. After a snapshot: ``floor`` is its mempool sequence number (None: the mempool is
        not followed), ``settled`` its tip and blocks below. Without one nothing is left out."""
        if floor is not None:
            self._floor = floor
        self._settled = set(settled)
        self.is_held = False
        self._drain()

    def close(self) -> None:
        """Forget what waits."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._queue.clear()
        self._bodies.clear()
        self._stash.clear()

    def _drain(self) -> None:
        while self._queue and not self.is_held:
            if not self._hand_on(self._queue[0]):
                self._work()
                return
            self._queue.popleft()

    def _hand_on(self, word: Word) -> bool:
        """Tell the sink; False while the body of an A is missing."""
        match word.action:
            case MempoolAction.ADDED:
                return self._hand_on_added(word)
            case MempoolAction.REMOVED:
                if word.mempool_sequence >= self._floor:
                    self.mempool.discard(word.hash)
                    self._hand_on_mempool(word, None)
            case TipAction.CONNECTED:
                self._hand_on_connected(word)
            case TipAction.DISCONNECTED:
                self._settled.discard(word.hash)
                if self.connected and self.connected[-1] == word.hash:
                    self.connected.pop()
                self._sink.on_node_tip(self._source, word.action, word.hash)
                self._clear_stash()
        return True

    def _hand_on_added(self, word: Word) -> bool:
        txid = word.hash
        raw = self._stash.take(txid)
        if word.mempool_sequence < self._floor:
            self._bodies.pop(txid, None)
            return True
        if raw is None:
            if txid not in self._bodies:
                return False
            raw = self._bodies.pop(txid)
        self.mempool.add(txid)
        self._hand_on_mempool(word, raw)
        return True

    def tell_mempool(
        self, action: MempoolAction, txid: bytes, mempool_sequence: int, raw: bytes | None = None
    ) -> None:
        """Hand on a change that a snapshot showed. Only while held."""
        if action is MempoolAction.ADDED:
            self.mempool.add(txid)
        else:
            self.mempool.discard(txid)
        self._hand_on_mempool(Word(action, txid, mempool_sequence, NO_STAMPS), raw)

    def _hand_on_mempool(self, word: Word, raw: bytes | None) -> None:
        self.mempool_sequence = word.mempool_sequence
        self._sink.on_mempool(
            self._source,
            MempoolAction(word.action),
            word.hash,
            word.mempool_sequence,
            raw,
            word.stamps,
        )

    def _hand_on_connected(self, word: Word) -> None:
        if word.hash in self._settled:
            return
        self._settled.clear()
        self.connected.append(word.hash)
        if len(self.connected) > CONNECTED_MAX:
            self.connected.popleft()
            self.forgot_connected = True
        self._sink.on_node_tip(self._source, TipAction.CONNECTED, word.hash)
        self._clear_stash()

    def _clear_stash(self) -> None:
        """After C or D: the bodies before it were the block's own."""
        if self._stash_line is self._sequence_line:
            self._stash.clear()

    def _work(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._bring_bodies())
            self._task.add_done_callback(self._worked)

    def _worked(self, task: asyncio.Task[Any]) -> None:
        if self._task is task:
            self._task = None
        if not task.cancelled():
            task.result()

    async def _bring_bodies(self) -> None:
        """Bring the bodies that are missing until nothing waits for one any more."""
        while self._queue and not self.is_held:
            if self.expects_bodies and self._stash_line is not self._sequence_line:
                await asyncio.sleep(BODY_GRACE_SECONDS)
            self._resume()
            if not self._queue or self.is_held:
                return
            lacking = self._lacking()
            bodies: Sequence[bytes | None] = [None] * len(lacking)
            if self._fetch is not None and lacking:
                # The owner notices a node that does not answer by itself.
                with contextlib.suppress(FeedError):
                    bodies = await self._fetch(lacking)
            found = sum(body is not None for body in bodies)
            self.counts["bodies_fetched"] += found
            self.counts["bodies_missing"] += len(bodies) - found
            self._bodies.update(zip(lacking, bodies, strict=True))
            self._resume()
        if not self._queue:
            self._bodies.clear()

    def _resume(self) -> None:
        while self._queue and not self.is_held and self._hand_on(self._queue[0]):
            self._queue.popleft()

    def _lacking(self) -> list[bytes]:
        """Txids of the next words whose body did not come."""
        lacking: list[bytes] = []
        for word in self._queue:
            if word.action is not MempoolAction.ADDED or word.hash in self._bodies:
                continue
            raw = self._stash.take(word.hash)
            if raw is not None:
                self._bodies[word.hash] = raw
            elif word.hash not in lacking:
                lacking.append(word.hash)
                if len(lacking) >= FETCH_MAX:
                    break
        return lacking
