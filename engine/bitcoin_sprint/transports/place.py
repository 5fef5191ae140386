"""Where a subscriber is in one ring: its cursor, and the bulky frames begun and not yet ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bitcoin_sprint.tiers import Action, Cursor
from bitcoin_sprint.transports.codec import PREFIX, EndStatus
from bitcoin_sprint.transports.window import Channel, Entry

Buffer = bytes | memoryview


class Bulky:
    """A bulky frame that is begun and not yet ended."""

    __slots__ = ("attempt_ns", "entry", "late", "offset", "ordinal", "status", "stream")

    def __init__(self, entry: Entry, ordinal: int, stream: int, *, late: bool) -> None:
        self.entry = entry
        self.ordinal = ordinal
        self.stream = stream
        self.late = late
        self.offset = 0
        self.attempt_ns = 0
        self.status = EndStatus.OK


class Planned(NamedTuple):
    """A frame chosen to leave in the next system call."""

    ordinal: int
    entry: Entry
    late: bool
    stream: int


class Place:
    """A subscriber's place in one lane."""

    __slots__ = ("attempt_ns", "channel", "cursor", "lane", "open")

    def __init__(self, channel: Channel, cursor: Cursor) -> None:
        self.channel = channel
        self.cursor = cursor
        self.lane = cursor.lane
        self.attempt_ns = 0
        """When the frame at the cursor was first tried, 0 if it was not."""
        self.open: list[Bulky] = []

    @property
    def behind(self) -> bool:
        return self.cursor.next < self.channel.head or bool(self.open)

    def judge(self, now: int, write_ns: int) -> Action:
        """What to do with the frame at the cursor, of which no byte was accepted yet."""
        cursor, channel = self.cursor, self.channel
        entry = channel.entry(cursor.next)
        assert entry is not None
        return cursor.judge(
            channel.head,
            channel.newest,
            age_ns=now - entry.stamp_ns,
            write_ns=write_ns,
            whole=entry.whole(),
        )

    def apply(self, action: Action) -> None:
        """Pass over what ``action`` says; a jump also gives up the older ones that are open."""
        self.cursor.apply(action, self.channel.head, self.channel.newest)
        if action is Action.JUMP:
            for bulky in self.open:
                if bulky.ordinal < self.channel.newest:
                    self.give_up(bulky, EndStatus.PAST_DEADLINE)

    def judge_begun(self, ordinal: int, write_ns: int) -> Action:
        """What to do with a frame already begun; moves the cursor, does not count the frame."""
        action = self.cursor.judge_begun(ordinal, self.channel.newest, write_ns=write_ns)
        if action is Action.JUMP:
            self.apply(action)
        return action

    def give_up(self, bulky: Bulky, status: EndStatus) -> None:
        """Let a begun frame end in an abort; it counts as lost, once."""
        if bulky.status is EndStatus.OK:
            bulky.status = status
            self.lose()

    def lose(self) -> None:
        """Count a begun frame that ends in an abort."""
        self.cursor.count_lost(1)
        self.cursor.tally.aborted += 1


def with_stream(packed: bytes, stream: int) -> bytes:
    """A FRAME message under another stream number."""
    kind, reserved, _none, length = PREFIX.unpack_from(packed)
    return PREFIX.pack(kind, reserved, stream, length) + packed[PREFIX.size :]


def without(parts: Sequence[Buffer], accepted: int) -> list[Buffer]:
    """What is left of the buffers after the first ``accepted`` bytes."""
    left: list[Buffer] = []
    for part in parts:
        if accepted >= len(part):
            accepted -= len(part)
        else:
            left.append(memoryview(part)[accepted:])
            accepted = 0
    return left
