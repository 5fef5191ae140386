"""Frames, clocks and sockets that do as a test says, for what sends frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bitcoin_sprint.client import Frame
from bitcoin_sprint.client.decoder import StreamDecoder
from bitcoin_sprint.client.numbering import Numbering
from bitcoin_sprint.frames import Chain, Kind, Level
from bitcoin_sprint.native import crc32c
from bitcoin_sprint.ring.layout import DESCRIPTOR

PUBLISH_NS = 1_763_643_600_000_000_000


class FakeFrame:
    """A frame of a ring that isn't there; ``overwrite`` is what the writer would do to it."""

    def __init__(
        self,
        sequence: int,
        kind: int = Kind.HEADER,
        payload: bytes = b"p" * 80,
        *,
        hash: bytes | None = None,
        stamp_ns: int = 0,
        session: int = 7,
        level: int = Level.POW,
        height: int = -1,
    ) -> None:
        self.session = session
        self.sequence = sequence
        self.kind = kind
        self.level = level
        self.hash = hash if hash is not None else sequence.to_bytes(32, "little")
        self.stamp_ns = stamp_ns
        self.whole = True
        self.memory = bytearray(payload)
        self.descriptor = DESCRIPTOR.pack(
            sequence,
            0,
            len(payload),
            crc32c(payload),
            kind,
            Chain.BITCOIN,
            level,
            0,
            height,
            0,
            self.hash,
            PUBLISH_NS,
            0,
            0,
            0,
            stamp_ns,
        )

    @property
    def payload(self) -> memoryview:
        return memoryview(self.memory).toreadonly()

    def valid(self) -> bool:
        return self.whole

    def copy(self) -> bytes | None:
        return bytes(self.memory) if self.whole else None

    def overwrite(self) -> None:
        self.memory[:] = b"\xee" * len(self.memory)
        self.whole = False


class FakeClock:
    """Nanoseconds that pass when told to."""

    def __init__(self, now: int = 1_000_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, nanoseconds: int) -> None:
        self.now += nanoseconds


class FakeSocket:
    """Takes as many bytes as there is ``room``; what it took is decoded as a client would."""

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.calls = 0
        self.taken = bytearray()
        self.gaps: list[tuple[str, int, int]] = []
        self._decoder = StreamDecoder(Numbering(lambda *gap: self.gaps.append(gap), None))
        self._fed = 0

    def __call__(self, parts: Sequence[Any]) -> int:
        self.calls += 1
        data = b"".join(parts)
        accepted = len(data) if self.room is None else min(self.room, len(data))
        if self.room is not None:
            self.room -= accepted
        self.taken += data[:accepted]
        return accepted

    @property
    def aborted(self) -> int:
        self.frames()
        return self._decoder.aborted

    def frames(self) -> list[Frame]:
        """The whole frames that came since the last call."""
        self._decoder.feed(bytes(self.taken[self._fed :]))
        self._fed = len(self.taken)
        found = list(self._decoder.events)
        self._decoder.events.clear()
        return found

    def sequences(self) -> list[int]:
        return [frame.sequence for frame in self.frames()]


class FakeTimes:
    """Where relay times go."""

    def __init__(self) -> None:
        self.values: list[int] = []

    def record(self, value: int) -> None:
        self.values.append(value)
