"""What a worker knows of the rings: an index of their latest frames, one for all subscribers.

Each frame is read from its ring once, whatever the number of subscribers; the index holds the
frame's descriptor and a view, never a copy of its payload (but for small ones, one copy for all).
A *channel* is what one filter selects from one ring; subscribers with the same filter share it,
and their place in it is an ordinal, so that how far behind they are is a plain difference.

Invariants
- Ordinals only grow, also over a change of session: the old session's frames stay before the new.
- ``previous`` of a frame is the sequence number of the frame before it in this channel. Where
  frames passed unseen before it (the worker was lapped, or started later than the ring), it is
  the number right before the frame: it says that something may be missing, never that nothing is.
- Owned by one thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from bitcoin_sprint.frames import Flag, Kind
from bitcoin_sprint.ring import Frame
from bitcoin_sprint.ring.layout import DESCRIPTOR
from bitcoin_sprint.tiers import Lane
from bitcoin_sprint.transports.codec import (
    CHUNK_BYTES_MAX,
    Message,
    pack_header,
    pack_message,
    pack_whole,
)
from bitcoin_sprint.transports.handshake import BLOCKS_KINDS, TX_KINDS, kinds_mask

WHOLE_BYTES_MAX: Final = 4096
"""A payload up to this leaves with its header and its end in one piece."""
assert WHOLE_BYTES_MAX <= CHUNK_BYTES_MAX

LANE_KINDS: Final = {Lane.BLOCKS: kinds_mask(BLOCKS_KINDS), Lane.TX: kinds_mask(TX_KINDS)}

_RECENT_BLOCKS: Final = 64


class Entry:
    """One frame, as all its subscribers share it."""

    __slots__ = (
        "_chain",
        "_first_byte_ns",
        "_flags",
        "_last_byte_ns",
        "_level",
        "_origin_ns",
        "_publish_ns",
        "_small",
        "crc32c",
        "frame",
        "hash",
        "height",
        "kind",
        "length",
        "sequence",
        "session",
        "stamp_ns",
    )

    sequence: int
    length: int
    crc32c: int
    kind: int
    height: int
    hash: bytes
    stamp_ns: int

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.session = frame.session
        # At once: one property after the other would take ten times as long.
        (
            self.sequence,
            _position,
            self.length,
            self.crc32c,
            self.kind,
            self._chain,
            self._level,
            self._flags,
            self.height,
            _source,
            self.hash,
            self._publish_ns,
            self._origin_ns,
            self._first_byte_ns,
            self._last_byte_ns,
            self.stamp_ns,
        ) = DESCRIPTOR.unpack(frame.descriptor)
        self._small: bytes | None = None

    @property
    def bulky(self) -> bool:
        """Whether it leaves in chunks straight out of the ring."""
        return self.length > WHOLE_BYTES_MAX

    def whole(self) -> bool:
        """Whether it can still be sent: held here, or not overwritten in the ring."""
        return self._small is not None or self.frame.valid()

    def small(self) -> bytes | None:
        """A small frame's payload, copied once for all; None once it is overwritten."""
        if self._small is None:
            self._small = self.frame.copy()
        return self._small

    def header(self, previous: int, flags: int = 0) -> bytes:
        """The wire header, with ``previous`` of the subscription and its extra ``flags``."""
        return pack_header(
            kind=self.kind,
            chain=self._chain,
            level=self._level,
            flags=self._flags | flags,
            height=self.height,
            session=self.session,
            sequence=self.sequence,
            previous=previous,
            publish_ns=self._publish_ns,
            origin_ns=self._origin_ns,
            first_byte_ns=self._first_byte_ns,
            last_byte_ns=self._last_byte_ns,
            hash=self.hash,
            length=self.length,
        )


class Channel:
    """The frames of one ring that one filter selects: the latest ``capacity`` of them."""

    __slots__ = (
        "_blocks",
        "_entries",
        "_first",
        "_hole",
        "_last",
        "_mask",
        "_packed",
        "_previous",
        "capacity",
        "head",
        "kinds",
        "newest",
        "session",
    )

    def __init__(self, kinds: int, capacity: int) -> None:
        self.kinds = kinds
        self.head = 0
        """Ordinal that the next frame gets."""
        self.newest = 0
        """Ordinal of the newest block's first frame, or of the newest frame where no block is."""
        self.session = 0
        self._first = 0
        self._allot(capacity)
        self._last = 0
        self._hole = 0
        self._blocks: OrderedDict[bytes, int] = OrderedDict()

    def _allot(self, capacity: int) -> None:
        """Make room for ``capacity`` frames, all of it empty."""
        assert capacity & (capacity - 1) == 0, "the capacity is a power of two"
        self.capacity = capacity
        self._mask = capacity - 1
        self._entries: list[Entry | None] = [None] * capacity
        self._previous = [0] * capacity
        # On time and late: when frames are late, they mostly are for everybody.
        self._packed: tuple[list[bytes | None], ...] = ([None] * capacity, [None] * capacity)

    def resize(self, capacity: int) -> None:
        """Hold another number of frames from now on; ordinals stay, the latest frames too."""
        kept = range(max(self.tail, self.head - capacity), self.head)
        moved = [(n, self._entries[n & self._mask], self.previous(n)) for n in kept]
        self._allot(capacity)
        for ordinal, entry, previous in moved:
            self._entries[ordinal & self._mask] = entry
            self._previous[ordinal & self._mask] = previous
        self._first = kept.start

    def begin_session(self, session: int) -> None:
        """What follows has numbers of its own."""
        self.session = session
        self._last = 0
        self._hole = 0

    def mark_hole(self, last_missing: int) -> None:
        """Frames up to that number passed unseen."""
        self._hole = last_missing

    def append(self, entry: Entry) -> None:
        slot = self.head & self._mask
        self._entries[slot] = entry
        self._previous[slot] = max(self._last, self._hole)
        self._packed[0][slot] = self._packed[1][slot] = None
        self._last = entry.sequence
        self._track_newest(entry)
        self.head += 1

    def _track_newest(self, entry: Entry) -> None:
        """A block is as new as its first word: a body that comes late does not make it newer."""
        bodies = self.kinds & (1 << Kind.HEADER | 1 << Kind.BLOCK)
        names_block = entry.kind in (Kind.HEADER, Kind.BLOCK) if bodies else entry.kind == Kind.TIP
        if names_block and entry.hash not in self._blocks:
            self._blocks[entry.hash] = self.newest = self.head
            if len(self._blocks) > _RECENT_BLOCKS:
                self._blocks.popitem(last=False)
        elif not self._blocks:
            self.newest = self.head

    @property
    def tail(self) -> int:
        """Ordinal of the oldest frame that is still indexed."""
        return max(self._first, self.head - self.capacity)

    @property
    def last_sequence(self) -> int:
        """Number of the last frame that this filter selected or may have, 0 where none."""
        return max(self._last, self._hole)

    def entry(self, ordinal: int) -> Entry | None:
        """The frame with that ordinal, None when it has left the index."""
        return self._entries[ordinal & self._mask] if ordinal >= self.tail else None

    def previous(self, ordinal: int) -> int:
        return self._previous[ordinal & self._mask]

    def ordinal_of(self, sequence: int) -> int:
        """The first ordinal of this session whose number is at least ``sequence``."""
        low, high = self.session_start, self.head
        while low < high:
            middle = (low + high) // 2
            entry = self._entries[middle & self._mask]
            assert entry is not None
            if entry.sequence < sequence:
                low = middle + 1
            else:
                high = middle
        return low

    @property
    def session_start(self) -> int:
        """The first ordinal of the present session that is still indexed."""
        low, high = self.tail, self.head
        while low < high:
            middle = (low + high) // 2
            entry = self._entries[middle & self._mask]
            assert entry is not None
            if entry.session != self.session:
                low = middle + 1
            else:
                high = middle
        return low

    def packed(self, ordinal: int, *, late: bool) -> bytes | None:
        """The bytes that begin a frame: all of a small one, the FRAME message of a bulky one.

        Made once for all subscribers of the channel. A bulky one carries stream 0:
        ``transports.delivery`` gives it its own. None once it is overwritten.
        """
        slot = ordinal & self._mask
        found = self._packed[late][slot]
        if found is not None:
            return found
        entry = self._entries[slot]
        assert entry is not None
        flags = int(Flag.LATE) if late else 0
        header = entry.header(self._previous[slot], flags)
        if entry.bulky:
            packed = pack_message(Message.FRAME, header)
        else:
            payload = entry.small()
            if payload is None:
                return None
            packed = pack_whole(header, payload, entry.crc32c, flags)
        self._packed[late][slot] = packed
        return packed


class Window:
    """The latest frames of one ring, and the channels that subscribers made out of it."""

    __slots__ = ("_channels", "_everything", "_expected", "lane", "lost")

    def __init__(self, lane: Lane, capacity: int) -> None:
        self.lane = lane
        self._everything = Channel(LANE_KINDS[lane], _power_of_two(capacity))
        self._channels: dict[int, Channel] = {self._everything.kinds: self._everything}
        self._expected = 0
        self.lost = 0
        """Frames that the worker itself never saw: the ring lapped it."""

    @property
    def capacity(self) -> int:
        return self._everything.capacity

    def resize(self, capacity: int) -> None:
        """Index at least ``capacity`` frames from now on; the latest are kept."""
        wanted = _power_of_two(capacity)
        if wanted != self.capacity:
            for channel in self._channels.values():
                channel.resize(wanted)

    @property
    def session(self) -> int:
        return self._everything.session

    @property
    def last_sequence(self) -> int:
        return self._everything.last_sequence

    def begin_session(self, session: int, first: int) -> None:
        """What follows is of another segment, with numbers of its own, from ``first`` on."""
        self._expected = first
        for channel in self._channels.values():
            channel.begin_session(session)
            channel.mark_hole(first - 1)

    def append(self, frame: Frame) -> Entry:
        """Index the ring's next frame."""
        entry = Entry(frame)
        if entry.session != self.session:
            self.begin_session(entry.session, entry.sequence)
        if entry.sequence != self._expected:
            self.lost += entry.sequence - self._expected
            for channel in self._channels.values():
                channel.mark_hole(entry.sequence - 1)
        self._expected = entry.sequence + 1
        bit = 1 << entry.kind
        for kinds, channel in self._channels.items():
            if kinds & bit:
                channel.append(entry)
        return entry

    def channel(self, kinds: int) -> Channel | None:
        """The channel of a filter (a mask of kinds, 0 for all); None if it selects nothing here.

        There are at most as many as subsets of the ring's kinds, 15 and 3.
        """
        wanted = (kinds or LANE_KINDS[self.lane]) & LANE_KINDS[self.lane]
        if not wanted:
            return None
        found = self._channels.get(wanted)
        if found is None:
            found = self._channels[wanted] = self._select(wanted)
        return found

    def _select(self, kinds: int) -> Channel:
        """A channel made now, out of what is indexed: as if it had been there from the start."""
        everything = self._everything
        selected = Channel(kinds, everything.capacity)
        last = -1
        for ordinal, entry in self._indexed():
            session = entry.session
            if session != selected.session:
                selected.begin_session(session)
                last = -1
            previous = everything.previous(ordinal)
            if previous != last:
                selected.mark_hole(previous)
            last = entry.sequence
            if kinds >> entry.kind & 1:
                selected.append(entry)
        if everything.session != selected.session:
            selected.begin_session(everything.session)
        return selected

    def _indexed(self) -> Iterator[tuple[int, Entry]]:
        everything = self._everything
        for ordinal in range(everything.tail, everything.head):
            entry = everything.entry(ordinal)
            assert entry is not None
            yield ordinal, entry


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
