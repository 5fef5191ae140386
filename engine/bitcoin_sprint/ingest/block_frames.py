"""Frames of the ring ``blocks``: each header, body, tip and retraction, once and in order.

This is the only place that writes to that ring. What was published is remembered by hash and,
after a restart, read back out of the ring itself, so that a successor neither repeats a block nor
breaks the chain of TIP frames. A block's body is kept nowhere else: the ring is the store.

Frames flagged ``UNANCHORED`` prove less and are not remembered: the same block may come again,
anchored. Invariant: an anchored block's HEADER frame is published before its BLOCK frame, and both
before a TIP frame that connects it (where the body is not in the ring, ``block_sequence`` is 0).
"""

from __future__ import annotations

from typing import Final

from bitcoin_sprint.chains import Network
from bitcoin_sprint.frames import Flag, Kind, Level, Retract, Tip, TipAction
from bitcoin_sprint.ingest.feed import NO_STAMPS, Source, Stamps
from bitcoin_sprint.ingest.first_seen import BoundedMap
from bitcoin_sprint.ring import Frame, Ring, Writer
from bitcoin_sprint.validate import HeaderEntry, ProvedBlock

REMEMBERED_MAX: Final = 16_384
"""Hashes of headers and of blocks that are remembered; four times the ring's slots by default."""


class BlockFrames:
    """The writing side of the ring ``blocks``. One thread.

    ``writer`` and ``ring`` (the same ring, attached for reading back) are borrowed.
    """

    def __init__(self, writer: Writer, ring: Ring, network: Network) -> None:
        self._writer = writer
        self._ring = ring
        self._chain = network.chain
        self._headers: BoundedMap[int] = BoundedMap(REMEMBERED_MAX)
        self._blocks: BoundedMap[int] = BoundedMap(REMEMBERED_MAX)
        self.tips: dict[Level, bytes] = {}
        """Hash at which the TIP frames of each level stand."""
        self.recovered_headers: list[bytes] = []
        """Headers that an earlier process of this session published, in its order."""
        self._recover()

    def header_published(self, hash: bytes) -> bool:
        """Return whether a HEADER frame went out for ``hash`` in this session."""
        return hash in self._headers

    def block_published(self, hash: bytes) -> bool:
        """Return whether a BLOCK frame went out, even if the ring has overwritten it since."""
        return hash in self._blocks

    def block_sequence(self, hash: bytes) -> int:
        """Return the sequence of the BLOCK frame that is still in the ring, 0 for none."""
        return self._blocks.get(hash) or 0 if self._frame_of(hash) is not None else 0

    def body(self, hash: bytes) -> bytes | None:
        """Return the raw block out of the ring, None when it is not, or no longer, there."""
        frame = self._frame_of(hash)
        # Nobody but this thread overwrites the ring, so the frame stays whole meanwhile.
        return frame.body.tobytes() if frame is not None else None

    def publish_header(
        self,
        header: bytes,
        *,
        hash: bytes,
        height: int,
        source: Source,
        stamps: Stamps = NO_STAMPS,
        flags: Flag = Flag.NONE,
    ) -> bool:
        """Publish the HEADER frame unless it was; return whether it was new."""
        if hash in self._headers:
            return False
        sequence = self._writer.publish(
            Kind.HEADER,
            header,
            hash=hash,
            height=height,
            level=Level.POW,
            flags=flags,
            chain=self._chain,
            source=source.index,
            origin_ns=stamps.origin_ns,
            first_byte_ns=stamps.first_byte_ns,
            last_byte_ns=stamps.last_byte_ns,
        )
        if not flags & Flag.UNANCHORED:
            self._headers[hash] = sequence
        return True

    def publish_block(
        self,
        raw: bytes | memoryview,
        proved: ProvedBlock,
        *,
        height: int,
        source: Source,
        stamps: Stamps,
        flags: Flag = Flag.NONE,
    ) -> int:
        """Publish the BLOCK frame (and the HEADER frame, if it is not out); return its number."""
        self.publish_header(
            bytes(raw[:80]),
            hash=proved.hash,
            height=height,
            source=source,
            stamps=stamps,
            flags=flags,
        )
        sequence = self._writer.publish(
            Kind.BLOCK,
            (raw, proved.trailer),
            hash=proved.hash,
            height=height,
            level=Level.MERKLE,
            flags=flags,
            chain=self._chain,
            source=source.index,
            origin_ns=stamps.origin_ns,
            first_byte_ns=stamps.first_byte_ns,
            last_byte_ns=stamps.last_byte_ns,
        )
        if not flags & Flag.UNANCHORED:
            self._blocks[proved.hash] = sequence
        return sequence

    def publish_tip(
        self, action: TipAction, entry: HeaderEntry, level: Level, source_index: int
    ) -> None:
        """Publish that ``entry`` was connected to, or disconnected from, the chain of ``level``.

        A tip of level ``pow`` is where the chain of level ``merkle`` goes on after a jump.
        """
        tip = Tip(
            action=action,
            block_sequence=self.block_sequence(entry.hash),
            previous_hash=entry.parent,
            work=entry.work,
        )
        self._writer.publish(
            Kind.TIP,
            tip.pack(),
            hash=entry.hash,
            height=entry.height,
            level=level,
            chain=self._chain,
            source=source_index,
        )
        self._note_tip(level, action, entry.hash, entry.parent)

    def retract(self, entry: HeaderEntry, reason: str, source: Source, level: Level) -> bool:
        """Withdraw what was said about a block; False when nothing was."""
        sequence = self._blocks.get(entry.hash) or self._headers.get(entry.hash)
        if not sequence:
            return False
        payload = Retract(sequence=sequence, previous_hash=entry.parent, reason=reason)
        self._writer.publish(
            Kind.RETRACT,
            payload.pack(),
            hash=entry.hash,
            height=entry.height,
            level=level,
            chain=self._chain,
            source=source.index,
        )
        return True

    def published_headers(self) -> list[bytes]:
        """Return the hashes of all headers remembered, oldest first."""
        return list(self._headers)

    def published_blocks(self) -> list[bytes]:
        """Return the hashes of all blocks remembered, oldest first."""
        return list(self._blocks)

    def _frame_of(self, hash: bytes) -> Frame | None:
        sequence = self._blocks.get(hash)
        if not sequence:
            return None
        with self._ring.reader(start=sequence) as reader:
            frame = reader.poll()
        return frame if frame is not None and frame.sequence == sequence else None

    def _note_tip(self, level: Level, action: TipAction, hash: bytes, parent: bytes) -> None:
        chain_level = Level.MERKLE if level is Level.POW else level
        self.tips[chain_level] = hash if action is TipAction.CONNECTED else parent

    def _recover(self) -> None:
        """Read back what an earlier process of this session published."""
        head = self._ring.head
        with self._ring.reader(start="oldest") as reader:
            while reader.sequence <= head:
                frame = reader.poll()
                if frame is None:
                    return
                if frame.flags & Flag.UNANCHORED:
                    continue
                if frame.kind == Kind.HEADER:
                    self._headers[frame.hash] = frame.sequence
                    self.recovered_headers.append(bytes(frame.payload))
                elif frame.kind == Kind.BLOCK:
                    self._blocks[frame.hash] = frame.sequence
                elif frame.kind == Kind.TIP:
                    tip = Tip.unpack(frame.payload)
                    level = Level(frame.level)
                    self._note_tip(level, tip.action, frame.hash, tip.previous_hash)
