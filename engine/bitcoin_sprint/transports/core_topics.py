"""Bitcoin Core's ZeroMQ notifications, made out of the rings: ``hashblock rawblock hashtx rawtx
sequence``, in Core's form (doc/zmq.md) and in the order in which a node would have sent them.

Two paths. A connected tip's ``hashblock`` and ``rawblock`` leave at once, whatever else waits. The
three others tell of transactions and blocks in one order, the node's; so both rings are merged by
their frames' stamps, which one writer hands out strictly increasing, and what a block brings (two
messages a transaction) is sent in slices, so that it holds up nobody.

What is published
- MEMPOOL added: hashtx, rawtx, sequence A (no sequence where the node gave no number). MEMPOOL
  removed: sequence R. Of several nodes ingest lets one at a time have its word, so these tell of
  one mempool.
- TIP connected or disconnected, of the level configured: hashtx and rawtx of each transaction in
  block order, then sequence C or D; connected ones also hashblock and rawblock.
- TX frames never: no node of ours vouches for them.

Each topic's counter grows by one a message whether or not anybody listens, as Core's does. What we
could not send because the ring had overwritten it leaves a hole in the counters.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator
from typing import Final

from bitcoin_sprint.episode import Episode
from bitcoin_sprint.errors import Closed, ProtocolError
from bitcoin_sprint.frames import Kind, Level, Mempool, MempoolAction, Tip, TipAction
from bitcoin_sprint.ring import Frame, Reader, Ring
from bitcoin_sprint.transports.block_payload import BlockPayload, body_of

_log = logging.getLogger(__name__)

TOPICS: Final = (b"hashblock", b"hashtx", b"rawblock", b"rawtx", b"sequence")
_ORDERED_TOPICS: Final = (b"hashtx", b"rawtx", b"sequence")

_COUNTER: Final = struct.Struct("<I")
_MEMPOOL_SEQUENCE: Final = struct.Struct("<Q")
Wants = Callable[[bytes], bool]
"""Whether anybody subscribed to a topic."""

Send = Callable[[bytes, bytes | memoryview, bytes], None]
"""Sends topic, body and counter as one message of three parts."""


class CoreTopics:
    """Publishes the drop-in topics of one worker. Owned by one thread."""

    def __init__(self, level: Level, wants: Wants, send: Send) -> None:
        self._level = level
        self._wants = wants
        self._send = send
        self._counters = dict.fromkeys(TOPICS, 0)
        self._rings: tuple[Ring, Ring] | None = None
        self._merged: _Merged | None = None
        self._under_way: Iterator[None] | None = None
        self._losses: Episode[str] = Episode("core topics")
        self.lost = 0
        """Frames, or bodies that a frame named, which the ring had overwritten."""

    def attach(self, blocks: Ring, tx: Ring) -> None:
        """Follow these rings from now on; what is under way of others is finished first."""
        self.detach()
        self._rings = (blocks, tx)
        self._merged = _Merged(blocks.reader("newest"), tx.reader("newest"))

    def detach(self) -> None:
        """Let go of the rings."""
        if self._merged is not None:
            self._merged.close()
        self._merged = None
        self._rings = None

    def message(self, topic: bytes, body: bytes | memoryview) -> None:
        """Send a message, or only count it where nobody would get it."""
        counter = self._counters[topic]
        self._counters[topic] = (counter + 1) & 0xFFFFFFFF
        if self._wants(topic):
            self._send(topic, body, _COUNTER.pack(counter))

    # ---- blocks, at once -------------------------------------------------------------------

    def tip(self, frame: Frame) -> None:
        """A TIP frame was published: hashblock and rawblock, if it is a connected one."""
        tip = self._tip_of(frame)
        if tip is None or tip.action is not TipAction.CONNECTED:
            return
        self.message(b"hashblock", frame.hash[::-1])
        if not self._wants(b"rawblock"):
            self._skip(b"rawblock", 1)
            return
        payload = self._body(tip.block_sequence, frame.hash)
        if payload is None:
            self._skip(b"rawblock", 1)
            return
        self.message(b"rawblock", body_of(memoryview(payload)))

    def _tip_of(self, frame: Frame) -> Tip | None:
        """What a TIP frame of our level says, None for any other."""
        if frame.kind != Kind.TIP or frame.level != self._level:
            return None
        payload = frame.copy()
        if payload is None:
            self._count_lost(f"TIP {frame.sequence}")
            return None
        return Tip.unpack(payload)

    def _body(self, sequence: int, block_hash: bytes) -> bytes | None:
        """The payload of the BLOCK frame with that number, None where it can't be had."""
        found: bytes | None = None
        if sequence and self._rings is not None:
            try:
                reader = self._rings[0].reader(sequence)
            except (ValueError, Closed):
                reader = None
            if reader is not None:
                with reader:
                    frame = reader.poll()
                if frame is not None and frame.sequence == sequence and frame.hash == block_hash:
                    found = frame.copy()
        if found is None:
            self._count_lost(f"body of block {block_hash[::-1].hex()}")
        return found

    # ---- transactions and sequence, in order -----------------------------------------------

    def advance(self, messages: int) -> bool:
        """Go on with the ordered topics, for about so many messages; whether more is left.

        Raises Closed once a ring's writer has ended it.
        """
        for _ in range(messages):
            if self._under_way is None:
                frame = self._next()
                if frame is None:
                    self._losses.end(lost=self.lost)  # caught up
                    return False
                self._under_way = self._messages_of(frame)
            if next(self._under_way, self) is self:
                self._under_way = None
        return True

    def _next(self) -> Frame | None:
        if self._merged is None:
            return None
        frame = self._merged.next()
        if frame is not None and self._merged.take_lost():
            self._count_lost("frames")
            for topic in _ORDERED_TOPICS:
                self._skip(topic, 1)
        return frame

    def _messages_of(self, frame: Frame) -> Iterator[None]:
        """Send what a frame calls for; yields now and then, so that it can be done in slices."""
        if frame.kind == Kind.MEMPOOL:
            self._mempool(frame)
        tip = self._tip_of(frame)
        if tip is not None:
            yield from self._transactions(tip, frame.hash)
            self.message(b"sequence", frame.hash[::-1] + bytes([tip.action]))

    def _mempool(self, frame: Frame) -> None:
        payload = frame.copy()
        if payload is None:
            self._count_lost(f"MEMPOOL {frame.sequence}")
            for topic in _ORDERED_TOPICS:
                self._skip(topic, 1)
            return
        change = Mempool.unpack(payload)
        txid = frame.hash[::-1]
        if change.action is MempoolAction.ADDED:
            self.message(b"hashtx", txid)
            if change.raw:
                self.message(b"rawtx", change.raw)
            else:
                self._skip(b"rawtx", 1)
            if not change.mempool_sequence:
                return  # a node that publishes no ``sequence``: it would be our invention
        number = _MEMPOOL_SEQUENCE.pack(change.mempool_sequence)
        self.message(b"sequence", txid + bytes([change.action]) + number)

    def _transactions(self, tip: Tip, block_hash: bytes) -> Iterator[None]:
        payload = self._body(tip.block_sequence, block_hash)
        if payload is None:
            self._skip(b"hashtx", 1)
            self._skip(b"rawtx", 1)
            return
        try:
            block = BlockPayload.unpack(payload)
            bounds = block.bounds()
        except ProtocolError as error:
            _log.error("core topics: a block's trailer is wrong", extra={"error": str(error)})
            return
        count = len(bounds) - 1
        if not self._wants(b"hashtx") and not self._wants(b"rawtx"):
            self._skip(b"hashtx", count)
            self._skip(b"rawtx", count)
            return
        displayed = block.txids[:, ::-1].tobytes()
        for index in range(count):
            self.message(b"hashtx", displayed[32 * index : 32 * index + 32])
            self.message(b"rawtx", block.body[bounds[index] : bounds[index + 1]])
            yield

    def _skip(self, topic: bytes, count: int) -> None:
        """Count messages that are not sent."""
        self._counters[topic] = (self._counters[topic] + count) & 0xFFFFFFFF

    def _count_lost(self, what: str) -> None:
        self.lost += 1
        text = f"{what} was overwritten before it was sent: more comes than this host can relay"
        self._losses.fail("overwritten", text)


class _Merged:
    """Two readers of one writer's rings as one, in the order of publication.

    A frame may only leave once the *other* ring was found empty, or further on, after the frame was
    seen: stamps are handed out in publish order, so whatever has a smaller one is visible by then.
    """

    def __init__(self, blocks: Reader, tx: Reader) -> None:
        self._readers = (blocks, tx)
        self._ahead: list[Frame | None] = [None, None]
        self._lost = 0

    def next(self) -> Frame | None:
        ahead = self._ahead
        blocks, tx = self._readers
        if ahead[0] is None:
            ahead[0] = blocks.poll()
        if ahead[1] is None:
            ahead[1] = tx.poll()
            if ahead[0] is None and ahead[1] is not None:
                ahead[0] = blocks.poll()
        first, second = ahead
        if first is not None and (second is None or first.stamp_ns < second.stamp_ns):
            ahead[0] = None
            return first
        ahead[1] = None
        return second

    def take_lost(self) -> int:
        """Frames lost to overruns since the last call."""
        lost = self._readers[0].frames_lost + self._readers[1].frames_lost
        new, self._lost = lost - self._lost, lost
        return new

    def close(self) -> None:
        for reader in self._readers:
            reader.close()
