"""What one subscriber of a stream gets, and when: its cursors, and the bytes under way.

A subscriber is a place in each channel plus what its socket has not taken yet. Small frames leave
whole, many in one system call; a bulky one is opened (FRAME), then leaves in chunks straight out
of the ring, and newer small frames pass between them. Frames of a ring are *opened* in the order of
their numbers, so that a client sees a hole at once; they may end in another order.

Invariants
- A frame is begun with its first byte accepted. Until then it may still be passed over, and
  nothing of it is remembered here.
- A unit (a whole small frame, a FRAME message, a chunk, an END) that is begun is finished, whatever
  its bytes have become meanwhile: the END behind it tells. END says OK only after every byte
  of the payload was copied by the kernel *and* the ring was then found not to have moved over it.
- Nothing here blocks, allocates per frame and subscriber where all goes well, or looks at a clock
  other than the one it was given.

Failure modes: a peer that takes nothing costs one refused attempt, then nothing until epoll
says that its window opened; what it passes over meanwhile is settled by ``settle``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from bitcoin_sprint.frames import Flag
from bitcoin_sprint.tiers import Action, Cause, Lane, TierPolicy
from bitcoin_sprint.tiers.cursor import Tally, cause_of
from bitcoin_sprint.transports.codec import (
    CHUNK_BYTES_MAX,
    PACKED_END_BYTES,
    PREFIX,
    EndStatus,
    Message,
    pack_end,
)
from bitcoin_sprint.transports.place import Buffer, Bulky, Place, Planned, with_stream, without
from bitcoin_sprint.transports.window import Entry

Send = Callable[[Sequence[Buffer]], int]
"""Hands buffers to the socket and returns the bytes accepted, 0 when it would block."""

_BATCH_FRAMES: Final = 64
_BATCH_BYTES: Final = 64 << 10
_BULKY_OPEN_MAX: Final = {Lane.BLOCKS: 4, Lane.TX: 1}
_LATE: Final = int(Flag.LATE)


class RelayTimes(Protocol):
    """Where publish-to-first-byte times are recorded, in nanoseconds."""

    def record(self, value: int) -> None: ...


class Turn(enum.Enum):
    """How a subscriber's turn ended."""

    IDLE = 0
    """Nothing is left to send."""
    MORE = 1
    """Something is left; others are to have their turn first."""
    BLOCKED = 2
    """The socket takes no more until epoll says so."""


class Delivery:
    """Everything that is under way to one subscriber. Owned by one thread."""

    __slots__ = (
        "_clock",
        "_on_block",
        "_parts",
        "_planned",
        "_policy",
        "_rest",
        "_rest_attempt_ns",
        "_rest_bulky",
        "_rest_small",
        "_send",
        "_stream",
        "_times",
        "blocked",
        "congested_since_ns",
        "last_sent_ns",
        "places",
        "tally",
    )

    def __init__(
        self,
        send: Send,
        policy: TierPolicy,
        places: Sequence[Place],
        tally: Tally,
        times: RelayTimes,
        clock: Callable[[], int],
        on_block: Callable[[Entry, int], None] | None = None,
    ) -> None:
        self._send = send
        self._policy = policy
        self.places = tuple(places)
        self.tally = tally
        self._times = times
        self._clock = clock
        self._on_block = on_block
        self.blocked = False
        self.congested_since_ns = 0
        self.last_sent_ns = clock()
        self._stream = 0
        self._parts: list[bytes] = []
        self._planned: list[Planned] = []
        # The unit under way: what is left of it, when it was first tried, and what it is of.
        self._rest: list[Buffer] = []
        self._rest_attempt_ns = 0
        self._rest_small: tuple[Place, Planned] | None = None
        self._rest_bulky: tuple[Place, Bulky] | None = None

    def set_policy(self, policy: TierPolicy) -> None:
        """Go on by other values of the same tier; what is under way is judged by them too."""
        self._policy = policy
        for place in self.places:
            place.cursor.policy = policy

    # ---- turns -----------------------------------------------------------------------------

    @property
    def behind(self) -> bool:
        """Whether there is anything to send."""
        return bool(self._rest) or any(place.behind for place in self.places)

    def turn(self) -> Turn:
        """Send a batch of small frames of each ring, then one chunk; ``blocks`` first."""
        self.blocked = False
        if self._rest and not self._continue_rest():
            return self._block()
        for place in self.places:
            if not self._send_small(place):
                return self._block()
            if place.open:
                return Turn.MORE if self._send_chunk(place) else self._block()
        if any(place.behind for place in self.places):
            return Turn.MORE
        self.congested_since_ns = 0
        return Turn.IDLE

    def turn_for_blocks(self) -> bool:
        """Send the small frames of ``blocks`` alone; False when the socket takes no more."""
        if self._rest and not self._continue_rest():
            self._block()
            return False
        place = self.places[0]
        if place.lane is Lane.BLOCKS and not self._send_small(place):
            self._block()
            return False
        return True

    def send_idle(self, message: bytes) -> None:
        """Send a message of ours (HEARTBEAT) if nothing is under way; else it is not needed."""
        if self._rest or self.blocked:
            return
        accepted = self._push([message])
        if accepted < len(message):
            self._rest = [memoryview(message)[accepted:]] if accepted else []
            self._block()

    def settle(self) -> None:
        """Pass over what a blocked subscriber will not get, so that its figures are true now."""
        now = self._clock()
        if self._rest_bulky is not None:
            self._judge_stuck(*self._rest_bulky, now - self._rest_attempt_ns)
        for place in self.places:
            for bulky in place.open:
                if bulky.attempt_ns:
                    self._judge_stuck(place, bulky, now - bulky.attempt_ns)
            self._settle(place, now)

    def _block(self) -> Turn:
        self.blocked = True
        if not self.congested_since_ns:
            self.congested_since_ns = self._clock()
        return Turn.BLOCKED

    # ---- policy ----------------------------------------------------------------------------

    def _settle(self, place: Place, now: int) -> Action | None:
        """Apply the policy to the frames at the cursor until one is to be delivered.

        Returns how that one is to be delivered, None when there is none left.
        """
        cursor, channel = place.cursor, place.channel
        while cursor.next < channel.head:
            if cursor.next < channel.tail:
                cursor.pass_over(channel.tail - cursor.next)
                place.attempt_ns = 0
            write_ns = now - place.attempt_ns if place.attempt_ns else 0
            action = place.judge(now, write_ns)
            if action in (Action.DELIVER, Action.DELIVER_LATE):
                return action
            entry = channel.entry(cursor.next)
            assert entry is not None
            if action is Action.SKIP and entry.whole():
                self._count_late(entry, write_ns)
            place.apply(action)
            place.attempt_ns = 0
        return None

    def _count_late(self, entry: Entry, write_ns: int) -> None:
        past_write = write_ns > self._policy.write_deadline_ns
        cause = cause_of(self._policy, entry.stamp_ns, self.congested_since_ns)
        self.tally.late(Cause.PEER if past_write else cause)

    # ---- small frames ----------------------------------------------------------------------

    def _send_small(self, place: Place) -> bool:
        """Send one batch of small frames and openings; False when the socket takes no more."""
        if place.cursor.next >= place.channel.head:
            return True
        started = self._clock()
        self._plan(place, started)
        if not self._parts:
            return True
        accepted = self._push(self._parts)
        return self._account(place, accepted, started, self._clock())

    def _plan(self, place: Place, now: int) -> None:
        """Choose the frames that leave together, into ``_planned``, and their bytes.

        What is not to be delivered is passed over only while the batch is empty: so nothing is
        counted that a refused part of the batch would make us count again.
        """
        cursor, channel = place.cursor, place.channel
        self._planned.clear()
        self._parts.clear()
        size, open_count = 0, len(place.open)
        while len(self._parts) < _BATCH_FRAMES and size < _BATCH_BYTES:
            if not self._parts:
                action = self._settle(place, now)
            else:
                action = place.judge(now, 0) if cursor.next < channel.head else None
            if action is not Action.DELIVER and action is not Action.DELIVER_LATE:
                break
            entry = channel.entry(cursor.next)
            assert entry is not None
            open_count += entry.bulky
            if open_count > _BULKY_OPEN_MAX[place.lane]:
                break
            late = action is Action.DELIVER_LATE
            packed = channel.packed(cursor.next, late=late)
            if packed is None and not self._parts:
                continue  # overwritten just now: the next look passes over it
            if packed is None:
                break
            stream = self._next_stream() if entry.bulky else 0
            self._parts.append(with_stream(packed, stream) if stream else packed)
            self._planned.append(Planned(cursor.next, entry, late, stream))
            size += len(packed)
            cursor.next += 1

    def _next_stream(self) -> int:
        """A number from 1 that no open frame has."""
        used = {bulky.stream for place in self.places for bulky in place.open}
        used.update(planned.stream for planned in self._planned)
        while True:
            self._stream = self._stream % 0xFFFF + 1
            if self._stream not in used:
                return self._stream

    def _account(self, place: Place, accepted: int, started: int, finished: int) -> bool:
        """Take note of what the socket took of the batch; put the cursor back before the rest."""
        attempt_ns = place.attempt_ns or started
        for planned, part in zip(self._planned, self._parts, strict=True):
            if not accepted:
                place.cursor.next = planned.ordinal
                place.attempt_ns = attempt_ns
                return False
            waited_ns = finished - place.attempt_ns if place.attempt_ns else 0
            bulky = self._begin(place, planned, finished, waited_ns)
            place.attempt_ns = 0
            if accepted < len(part):
                place.cursor.next = planned.ordinal + 1
                self._rest = [memoryview(part)[accepted:]]
                self._rest_attempt_ns = attempt_ns
                self._rest_bulky = (place, bulky) if bulky else None
                self._rest_small = None if bulky else (place, planned)
                return False
            accepted -= len(part)
            attempt_ns = started
            self.tally.sent += bulky is None
        return True

    def _begin(self, place: Place, planned: Planned, now: int, write_ns: int) -> Bulky | None:
        """A frame's first byte was accepted."""
        entry = planned.entry
        elapsed_ns = now - entry.stamp_ns
        self._times.record(elapsed_ns)
        if planned.late:
            self._count_late(entry, write_ns)
        if self._on_block is not None and place.lane is Lane.BLOCKS:
            self._on_block(entry, elapsed_ns)
        if not entry.bulky:
            return None
        bulky = Bulky(entry, planned.ordinal, planned.stream, late=planned.late)
        place.open.append(bulky)
        return bulky

    # ---- chunks ----------------------------------------------------------------------------

    def _send_chunk(self, place: Place) -> bool:
        """Send the next chunk of the oldest open frame, or its END; False when blocked."""
        bulky = place.open[0]
        now = self._clock()
        if bulky.attempt_ns:
            self._judge_stuck(place, bulky, now - bulky.attempt_ns)
        if bulky.status is EndStatus.OK and not bulky.entry.whole():
            place.give_up(bulky, EndStatus.OVERWRITTEN)
        if bulky.status is not EndStatus.OK or bulky.offset == bulky.entry.length:
            return self._send_end(place, bulky)
        count = min(CHUNK_BYTES_MAX, bulky.entry.length - bulky.offset)
        prefix = PREFIX.pack(Message.CHUNK, 0, bulky.stream, count)
        view = bulky.entry.frame.payload[bulky.offset : bulky.offset + count]
        accepted = self._push((prefix, view))
        # Taken at once, but not in time: then it was we who were kept from running.
        cause = Cause.PEER if bulky.attempt_ns else Cause.QUEUE
        attempt_ns = bulky.attempt_ns or now
        if not accepted:
            bulky.attempt_ns = attempt_ns
            return False
        bulky.offset += count
        if accepted < len(prefix) + count:
            self._rest = without((prefix, view), accepted)
            self._rest_attempt_ns = attempt_ns
            self._rest_bulky = (place, bulky)
            bulky.attempt_ns = 0
            return False
        self._after_unit(place, bulky, self._clock() - attempt_ns, cause)
        return True

    def _judge_stuck(self, place: Place, bulky: Bulky, write_ns: int) -> None:
        """Judge a begun frame whose unit is still under way, if that is past its deadline."""
        if write_ns > self._policy.write_deadline_ns:
            self._after_unit(place, bulky, write_ns)

    def _after_unit(
        self, place: Place, bulky: Bulky, write_ns: int, cause: Cause = Cause.PEER
    ) -> None:
        """Judge a begun frame by what its last unit took.

        A unit past its deadline moves the cursor on even if its frame was given up before: what
        was published meanwhile is no newer than what is newest now.
        """
        bulky.attempt_ns = 0
        action = place.judge_begun(bulky.ordinal, write_ns)
        if not bulky.entry.whole():
            place.give_up(bulky, EndStatus.OVERWRITTEN)
        if action is Action.DELIVER:
            return
        if not bulky.late:
            bulky.late = True
            self.tally.late(cause)
        if action is not Action.DELIVER_LATE:
            place.give_up(bulky, EndStatus.PAST_DEADLINE)

    def _send_end(self, place: Place, bulky: Bulky) -> bool:
        """Every byte was copied out, and the ring had not moved over it then: OK; else an abort."""
        ok = bulky.status is EndStatus.OK
        crc = bulky.entry.crc32c if ok else 0
        flags = _LATE if bulky.late else 0
        message = pack_end(bulky.status, crc, flags=flags, stream=bulky.stream)
        accepted = self._push([message])
        if not accepted:
            return False
        place.open.remove(bulky)
        self.tally.sent += ok
        if accepted < len(message):
            self._rest = [memoryview(message)[accepted:]]
        return accepted == len(message)

    # ---- the unit under way ----------------------------------------------------------------

    def _continue_rest(self) -> bool:
        """Go on with the unit under way; False when the socket takes no more."""
        if self._rest_small is not None:
            self._amend_small(*self._rest_small)
        accepted = self._push(self._rest)
        self._rest = without(self._rest, accepted)
        if self._rest:
            return False
        if self._rest_bulky is not None:
            place, bulky = self._rest_bulky
            self._after_unit(place, bulky, self._clock() - self._rest_attempt_ns)
            self._rest_bulky = None
        if self._rest_small is not None:
            self._rest_small = None
            self.tally.sent += 1
        return True

    def _amend_small(self, place: Place, planned: Planned) -> None:
        """A small frame that is stuck half way past its deadline: let its END say so, if that has
        not begun to leave."""
        write_ns = self._clock() - self._rest_attempt_ns
        if write_ns <= self._policy.write_deadline_ns:
            return
        rest = memoryview(self._rest[0])
        amendable = len(rest) >= PACKED_END_BYTES
        action = place.judge_begun(planned.ordinal, write_ns)
        if not planned.late:
            self.tally.late(Cause.PEER)
        if amendable and action is Action.DELIVER_LATE:
            end = pack_end(EndStatus.OK, planned.entry.crc32c, flags=_LATE)
        elif amendable:
            end = pack_end(EndStatus.PAST_DEADLINE, 0)
            place.lose()
        if amendable:
            self._rest = [rest[:-PACKED_END_BYTES], end]
        if not amendable or action is Action.DELIVER_LATE:
            self.tally.sent += 1
        self._rest_small = None  # judged: counted here, and not again when it is through

    def _push(self, parts: Sequence[Buffer]) -> int:
        accepted = self._send(parts)
        self.tally.bytes += accepted
        if accepted:
            self.last_sent_ns = self._clock()
        return accepted
