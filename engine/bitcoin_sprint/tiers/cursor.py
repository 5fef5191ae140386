"""A subscriber's place in a ring, and what its tier does with the frame that comes next.

Everything here is pure: the caller brings the clock and the positions, nothing is read, sent or
waited for. Positions are *ordinals*: frame number n of those that this subscription selects from
one ring, counted from 0 by whoever keeps the channel (``transports.window``), so that a lag is a
plain difference whatever the filter.

The decision is one table, ``ACTIONS``: (delivery, lane, situation) -> action. The code, the tests
and the documentation all read that table. A frame is judged

- before its first byte is tried: its age against the relay target, the cursor's lag against the
  buffer, and the time since the first refused attempt against the write deadline;
- after each unit of at most 64 KiB: the time that took against the write deadline.

A frame that the subscriber asked to have out of the past (``joined``) is not the relay's
lateness: it is judged by neither age nor lag, only by its write deadline.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from bitcoin_sprint.tiers.policy import Delivery, TierPolicy


class Lane(enum.IntEnum):
    """Which ring a cursor walks."""

    BLOCKS = 0
    TX = 1


class Situation(enum.IntEnum):
    """How the next frame stands, worst last: of several that hold, the last one counts."""

    ON_TIME = 0
    AGED = 1
    """Older than the relay target, and no byte of it was accepted yet."""
    WRITE_PAST_DEADLINE = 2
    """A unit was tried, and its last byte is not accepted within the write deadline."""
    PAST_BUFFER = 3
    """The cursor is more than the tier's buffer behind."""
    LAPPED = 4
    """The ring itself has overwritten the frame."""


class Action(enum.IntEnum):
    """What becomes of the frame."""

    DELIVER = 0
    DELIVER_LATE = 1
    """Deliver it, marked LATE."""
    SKIP = 2
    """Pass over this one frame; begun, it is aborted."""
    DROP_OLDEST = 3
    """Pass over the oldest until the cursor is within the buffer again."""
    JUMP = 4
    """Go to the newest block, passing over all before it; if this is already it, DELIVER_LATE."""


class Cause(enum.IntEnum):
    """Why a frame was late."""

    QUEUE = 0
    """It waited for us."""
    PEER = 1
    """It waited for the subscriber: its window, or its socket's buffer, was full."""


def _actions() -> dict[tuple[Delivery, Lane, Situation], Action]:
    overwrite, best_effort = Delivery.OVERWRITE, Delivery.BEST_EFFORT
    table: dict[tuple[Delivery, Lane, Situation], Action] = {}
    for lane in Lane:
        table[best_effort, lane, Situation.ON_TIME] = Action.DELIVER
        table[best_effort, lane, Situation.AGED] = Action.SKIP
        table[best_effort, lane, Situation.WRITE_PAST_DEADLINE] = Action.SKIP
        table[best_effort, lane, Situation.PAST_BUFFER] = Action.DROP_OLDEST
        table[best_effort, lane, Situation.LAPPED] = Action.SKIP
        table[overwrite, lane, Situation.ON_TIME] = Action.DELIVER
        table[overwrite, lane, Situation.AGED] = Action.DELIVER_LATE
        table[overwrite, lane, Situation.LAPPED] = Action.SKIP
    table[overwrite, Lane.BLOCKS, Situation.WRITE_PAST_DEADLINE] = Action.JUMP
    table[overwrite, Lane.BLOCKS, Situation.PAST_BUFFER] = Action.JUMP
    # Transactions have no newest one that must be had: within the buffer nothing is dropped.
    table[overwrite, Lane.TX, Situation.WRITE_PAST_DEADLINE] = Action.DELIVER_LATE
    table[overwrite, Lane.TX, Situation.PAST_BUFFER] = Action.DROP_OLDEST
    return table


ACTIONS: Final[Mapping[tuple[Delivery, Lane, Situation], Action]] = MappingProxyType(_actions())


def situation_of(
    policy: TierPolicy, *, age_ns: int, write_ns: int, lag: int, live: bool, whole: bool
) -> Situation:
    """How a frame stands with a tier.

    ``age_ns`` since publish while no byte was accepted, 0 once one was; ``write_ns`` since the
    first attempt at the current unit, 0 before it; ``lag`` in subscribed frames, this one
    included; ``live`` false for a frame out of the past that the subscriber asked for; ``whole``
    false once the ring has overwritten it.
    """
    if not whole:
        return Situation.LAPPED
    if live and lag > policy.buffer_frames:
        return Situation.PAST_BUFFER
    if write_ns > policy.write_deadline_ns:
        return Situation.WRITE_PAST_DEADLINE
    if live and age_ns > policy.relay_target_ns:
        return Situation.AGED
    return Situation.ON_TIME


class Tally:
    """What happened to one subscriber's frames; plain integers, owned by one thread."""

    __slots__ = ("aborted", "bytes", "late_peer", "late_queue", "missed", "overwritten", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.bytes = 0
        self.missed = 0
        self.overwritten = 0
        self.late_queue = 0
        self.late_peer = 0
        self.aborted = 0

    def late(self, cause: Cause) -> None:
        if cause is Cause.PEER:
            self.late_peer += 1
        else:
            self.late_queue += 1

    def add(self, other: Tally) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Cursor:
    """One subscriber's place in one lane.

    ``next`` is the ordinal of the next frame to begin; ``joined`` the first ordinal that was
    published after it subscribed. Owned by one thread.
    """

    __slots__ = ("actions", "joined", "lane", "next", "policy", "tally")

    def __init__(
        self, policy: TierPolicy, lane: Lane, *, start: int, joined: int, tally: Tally
    ) -> None:
        self.policy = policy
        self.lane = lane
        self.next = start
        self.joined = joined
        self.tally = tally
        self.actions = tuple(ACTIONS[policy.delivery, lane, s] for s in Situation)

    def judge(
        self, head: int, newest: int, *, age_ns: int, write_ns: int, whole: bool = True
    ) -> Action:
        """What to do with the frame at ``next``, no byte of which was accepted yet.

        ``head`` is the ordinal that the next published frame will get, ``newest`` that of the
        newest block's first frame, or of the newest frame where there is no block.
        """
        situation = situation_of(
            self.policy,
            age_ns=age_ns,
            write_ns=write_ns,
            lag=head - self.next,
            live=self.next >= self.joined,
            whole=whole,
        )
        return self._resolve(self.actions[situation], self.next, newest)

    def judge_begun(self, ordinal: int, newest: int, *, write_ns: int) -> Action:
        """What to do with the frame ``ordinal``, already begun, by what a unit of it took."""
        situation = situation_of(
            self.policy, age_ns=0, write_ns=write_ns, lag=0, live=False, whole=True
        )
        return self._resolve(self.actions[situation], ordinal, newest)

    def _resolve(self, action: Action, ordinal: int, newest: int) -> Action:
        if action is Action.JUMP and ordinal >= newest:
            return Action.DELIVER_LATE
        return action

    def apply(self, action: Action, head: int, newest: int) -> None:
        """Move past what ``action`` passes over, and count it."""
        if action is Action.SKIP:
            target = self.next + 1
        elif action is Action.DROP_OLDEST:
            target = head - self.policy.buffer_frames
        elif action is Action.JUMP:
            target = newest
        else:
            return
        self.pass_over(target - self.next)

    def pass_over(self, frames: int) -> None:
        """Pass over ``frames`` subscribed frames that this subscriber will not get."""
        if frames <= 0:
            return
        self.next += frames
        self.count_lost(frames)

    def count_lost(self, frames: int) -> None:
        """Count frames that this subscriber does not get, under its delivery's own name."""
        if self.policy.delivery is Delivery.OVERWRITE:
            self.tally.overwritten += frames
        else:
            self.tally.missed += frames


def cause_of(policy: TierPolicy, publish_ns: int, congested_since_ns: int) -> Cause:
    """Why a frame of that publish time was late: the peer's doing if the subscriber was already
    congested (its last writes not accepted whole) by the time that the frame had to go out."""
    if congested_since_ns and congested_since_ns <= publish_ns + policy.relay_target_ns:
        return Cause.PEER
    return Cause.QUEUE
