"""Finds holes in what a subscriber receives, and says where to resume. Sans I/O."""

from __future__ import annotations

from collections.abc import Callable

from bitcoin_sprint.client.frame import RingName, ring_of
from bitcoin_sprint.transports.codec import FrameHeader
from bitcoin_sprint.transports.handshake import Position, Range, Start, StartMode

OnGap = Callable[[RingName, int, int], None]
"""Called with ring, first missing and last missing number: frames of this subscription with
numbers in between were lost. On a filtered one not every number in there was one of its frames."""

OnSession = Callable[[RingName, int, int], None]
"""Called with ring, old and new session: the engine began a new ring, numbers start again."""


class _Line:
    """One row of numbers: a ring on the stream, a topic on ZeroMQ."""

    __slots__ = ("ahead", "last", "open", "session")

    def __init__(self, session: int, last: int) -> None:
        self.session = session
        self.last = last
        """Last number begun."""
        self.open: set[int] = set()
        """Begun, and neither delivered nor lost."""
        self.ahead: set[int] = set()
        """Delivered while an earlier one was open: not wanted again after a reconnect."""

    def prune(self) -> None:
        """Forget what can't come again: all before the first open one."""
        if self.ahead:
            start = min(self.open, default=self.last + 1)
            self.ahead = {sequence for sequence in self.ahead if sequence >= start}


class Numbering:
    """Watches the numbers of one subscription.

    ``by_topic`` is for ZeroMQ, where each kind of frame has a ``previous`` of its own. Not safe
    across threads; calls back from within its methods.
    """

    def __init__(
        self, on_gap: OnGap | None, on_session: OnSession | None, *, by_topic: bool = False
    ) -> None:
        self._on_gap = on_gap
        self._on_session = on_session
        self._by_topic = by_topic
        self._lines: dict[int, _Line] = {}
        self._sessions: dict[RingName, int] = {}
        self.gaps = 0
        """Holes found so far."""

    def welcomed(self, ring: RingName, kind: int, granted: Range) -> None:
        """The server granted a start; ``kind`` is any of that ring."""
        if granted.session:
            self._line(kind, granted.session, granted.previous)
            self._sessions[ring] = granted.session

    def begun(self, header: FrameHeader) -> bool:
        """A frame begins; False when it was delivered before, so that it is not to be again."""
        line = self._line(header.kind, header.session, header.previous)
        if header.previous > line.last:
            self._missing(header.kind, line.last + 1, header.previous)
        line.last = header.sequence
        if header.sequence in line.ahead:
            line.ahead.remove(header.sequence)
            return False
        line.open.add(header.sequence)
        return True

    def delivered(self, header: FrameHeader) -> None:
        line = self._line(header.kind, header.session, header.previous)
        line.open.discard(header.sequence)
        line.ahead.add(header.sequence)
        line.prune()

    def aborted(self, header: FrameHeader) -> None:
        """A frame that began will not come."""
        line = self._line(header.kind, header.session, header.previous)
        line.open.discard(header.sequence)
        line.prune()
        self._missing(header.kind, header.sequence, header.sequence)

    def beat(self, position: Position) -> None:
        """A heartbeat: nothing up to ``last`` is still to come."""
        kind = _first_kind(position.kinds)
        if not position.session:
            return
        line = self._line(kind, position.session, position.last)
        if position.last > line.last:
            self._missing(kind, line.last + 1, position.last)
            line.last = position.last

    def resume(self, kind: int) -> Start | None:
        """Where to go on in the ring of ``kind`` after a reconnect; None when nothing came yet."""
        line = self._lines.get(self._key(kind))
        if line is None:
            return None
        following = min(line.open, default=line.last + 1)
        line.last = following - 1
        line.open.clear()
        return Start(StartMode.SEQUENCE, line.session, following)

    def _line(self, kind: int, session: int, previous: int) -> _Line:
        key = self._key(kind)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(session, previous)
        if line.session != session:
            # What the old session still had is out of reach; of the new one everything counts.
            line = self._lines[key] = _Line(session, 0)
        ring = ring_of(kind)
        known = self._sessions.get(ring)
        if known != session:
            self._sessions[ring] = session
            if known is not None and self._on_session is not None:
                self._on_session(ring, known, session)
        return line

    def _key(self, kind: int) -> int:
        return kind if self._by_topic else kind // 16

    def _missing(self, kind: int, first: int, last: int) -> None:
        self.gaps += 1
        if self._on_gap is not None:
            self._on_gap(ring_of(kind), first, last)


def _first_kind(kinds: int) -> int:
    return (kinds & -kinds).bit_length() - 1 if kinds else 0
