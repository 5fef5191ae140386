"""The TCP and Unix stream, server side: who gets a turn to send, and in which order.

One object serves one tier on the worker's own epoll loop and never blocks. How connections come to
subscribe is ``transports.arrivals``' business, what each one gets ``transports.delivery``'s. Small
frames of ``blocks`` go round to everybody before anything else goes on; then each subscriber in
its turn sends a batch or a chunk. Whoever's socket is full waits for epoll alone.

Bounds: subscribers in number; a subscriber has nothing more to say, so any further byte of it
ends its stream; one that takes nothing for ``stall_ns`` is closed.
"""

from __future__ import annotations

import logging
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bitcoin_sprint.errors import ConfigError, ProtocolError
from bitcoin_sprint.frames import Kind
from bitcoin_sprint.native import crc32c
from bitcoin_sprint.tiers import Cursor, Lane, TierPolicy, tier_named
from bitcoin_sprint.tiers.cursor import Tally
from bitcoin_sprint.transports.arrivals import READ, Arrivals, StreamOptions, say_goodbye
from bitcoin_sprint.transports.codec import FrameHeader, Message, pack_message, pack_whole
from bitcoin_sprint.transports.delivery import Delivery, RelayTimes, Turn
from bitcoin_sprint.transports.handshake import (
    Heartbeat,
    Position,
    Range,
    Refusal,
    Start,
    StartMode,
    Subscribe,
    Welcome,
    kinds_mask,
)
from bitcoin_sprint.transports.place import Buffer, Place
from bitcoin_sprint.transports.window import Channel, Entry, Window

_log = logging.getLogger(__name__)

_WRITE: Final = select.EPOLLOUT
_TURNS_MAX: Final = 128
_GONE: Final = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP

__all__ = ["StreamOptions", "StreamServer"]


class _Subscriber:
    """A connection that has subscribed."""

    __slots__ = ("delivery", "name", "queued", "socket")

    def __init__(self, connection: socket.socket, name: str, delivery: Delivery) -> None:
        self.socket = connection
        self.name = name
        self.delivery = delivery
        self.queued = False
        """Whether it stands in the queue for a turn."""


class StreamServer:
    """Serves one tier's stream subscribers out of the two windows. Owned by one thread."""

    def __init__(
        self,
        policy: TierPolicy,
        windows: Sequence[Window],
        epoll: select.epoll,
        times: RelayTimes,
        options: StreamOptions,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        on_block: Callable[[Entry, int], None] | None = None,
        on_short: Callable[[str], object] | None = None,
    ) -> None:
        """``on_short`` is told that the host gives no more descriptors; without it accepting
        pauses until ``resume``."""
        self._policy = policy
        self._windows = tuple(windows)
        self._epoll = epoll
        self._times = times
        self._options = options
        self._clock = clock
        self._on_block = on_block
        self._arrivals = Arrivals(
            policy.name,
            epoll,
            options,
            clock,
            take=self._subscribe,
            is_full=lambda: len(self._subscribers) >= options.subscribers_max,
            on_short=on_short or (lambda _reason: self.pause()),
        )
        self._subscribers: dict[int, _Subscriber] = {}
        self._queue: deque[_Subscriber] = deque()
        self._gone = Tally()
        self.stalled = 0
        """Subscribers closed because they took nothing for too long."""

    def listen_tcp(self, host: str, port: int) -> int:
        """Listen on host:port (0: any free one); returns the port. Raises HostError."""
        return self._arrivals.listen_tcp(host, port)

    def listen_unix(self, path: Path) -> None:
        """Listen on a Unix socket, replacing one that nobody listens on. Raises HostError."""
        self._arrivals.listen_unix(path)

    def set_policy(self, policy: TierPolicy) -> None:
        """Serve all subscribers, present and future, by other values of the same tier."""
        self._policy = policy
        for subscriber in self._subscribers.values():
            subscriber.delivery.set_policy(policy)

    def pause(self) -> None:
        """Accept nobody for now; who has subscribed is served on."""
        self._arrivals.pause()

    def resume(self) -> None:
        """Accept again."""
        self._arrivals.resume()

    # ---- events ----------------------------------------------------------------------------

    def handle(self, descriptor: int, events: int) -> bool:
        """Take an event of epoll; False when the descriptor is none of ours."""
        subscriber = self._subscribers.get(descriptor)
        if subscriber is not None:
            self._handle_subscriber(subscriber, events)
            return True
        return self._arrivals.handle(descriptor)

    def _handle_subscriber(self, subscriber: _Subscriber, events: int) -> None:
        if events & _GONE:
            self._drop(subscriber)
        elif events & select.EPOLLIN:
            self._read_subscriber(subscriber)
        elif events & _WRITE:
            self._epoll.modify(subscriber.socket.fileno(), READ)
            subscriber.delivery.blocked = False
            self._enqueue(subscriber)

    def _read_subscriber(self, subscriber: _Subscriber) -> None:
        try:
            data = subscriber.socket.recv(64)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            _log.info("stream: subscriber spoke out of turn", extra=self._about(subscriber))
        self._drop(subscriber)

    # ---- subscribing -----------------------------------------------------------------------

    def _subscribe(self, connection: socket.socket, wanted: Subscribe) -> None:
        policy = self._policy
        if wanted.tier and tier_named(wanted.tier).name != policy.name:
            raise ConfigError(f"this port serves {policy.name}, not {wanted.tier}")
        tally = Tally()
        ranges: list[Range] = []
        places: list[Place] = []
        mask = kinds_mask(wanted.kinds)
        for window, start in zip(self._windows, (wanted.blocks, wanted.tx), strict=True):
            channel = None if start.mode is StartMode.NONE else window.channel(mask)
            if channel is None:
                ranges.append(Range())
                continue
            ordinal = _first_ordinal(channel, start, policy.buffer_frames)
            cursor = Cursor(policy, window.lane, start=ordinal, joined=channel.head, tally=tally)
            places.append(Place(channel, cursor))
            ranges.append(_range_of(channel, window, ordinal, policy.buffer_frames))
        if not places:
            raise ProtocolError("a subscription that selects nothing")
        delivery = Delivery(
            _sender(connection),
            policy,
            places,
            tally,
            self._times,
            self._clock,
            self._on_block,
        )
        subscriber = _Subscriber(connection, wanted.name, delivery)
        self._subscribers[connection.fileno()] = subscriber
        welcome = Welcome(
            heartbeat_ms=self._options.heartbeat_ns // 1_000_000,
            blocks=ranges[0],
            tx=ranges[1],
            tier=policy.name,
            network=self._options.network,
            server=self._options.server,
            memory_instance=self._options.memory_instance,
            memory_directory=self._options.memory_directory,
        )
        self._send_message(subscriber, pack_message(Message.WELCOME, welcome.pack()))
        _log.debug("stream: subscriber joined", extra=self._about(subscriber))

    def _send_message(self, subscriber: _Subscriber, message: bytes) -> None:
        try:
            subscriber.delivery.send_idle(message)
        except OSError:
            self._drop(subscriber)
            return
        self._file(subscriber, Turn.BLOCKED if subscriber.delivery.blocked else Turn.MORE)

    # ---- turns -----------------------------------------------------------------------------

    def wake(self, lane: Lane) -> None:
        """New frames stand in that lane: give a turn to all who may want them."""
        for subscriber in self._subscribers.values():
            if subscriber.queued or subscriber.delivery.blocked:
                continue
            if any(place.lane is lane and place.behind for place in subscriber.delivery.places):
                self._enqueue(subscriber)

    def serve(self, poll_blocks: Callable[[], bool]) -> bool:
        """Give turns to the subscribers in the queue, round and round, up to a bound; returns
        whether somebody wants another.

        ``poll_blocks`` looks for new frames in ``blocks`` and is asked after every turn.
        """
        for _ in range(_TURNS_MAX):
            if not self._queue:
                return False
            subscriber = self._queue.popleft()
            subscriber.queued = False
            if subscriber.socket.fileno() < 0:
                continue  # dropped while it stood in the queue
            try:
                turn = subscriber.delivery.turn()
            except OSError:
                self._drop(subscriber)
                continue
            self._file(subscriber, turn)
            while poll_blocks():
                self._serve_blocks()
        return bool(self._queue)

    def _serve_blocks(self) -> None:
        """Newest block first: its small frames go to everybody whose socket takes them, now."""
        for subscriber in list(self._subscribers.values()):
            delivery = subscriber.delivery
            if delivery.blocked or not delivery.places[0].behind:
                continue
            try:
                open_socket = delivery.turn_for_blocks()
            except OSError:
                self._drop(subscriber)
                continue
            if not open_socket or delivery.behind:
                self._file(subscriber, Turn.MORE if open_socket else Turn.BLOCKED)

    def _file(self, subscriber: _Subscriber, turn: Turn) -> None:
        if turn is Turn.MORE:
            self._enqueue(subscriber)
        elif turn is Turn.BLOCKED:
            self._epoll.modify(subscriber.socket.fileno(), READ | _WRITE)

    def _enqueue(self, subscriber: _Subscriber) -> None:
        if not subscriber.queued:
            subscriber.queued = True
            self._queue.append(subscriber)

    # ---- time ------------------------------------------------------------------------------

    def tick(self) -> None:
        """What time alone brings: heartbeats, handshakes that took too long, peers that stall."""
        now = self._clock()
        self._arrivals.tick()
        beats: dict[tuple[int, ...], bytes] = {}
        for subscriber in list(self._subscribers.values()):
            delivery = subscriber.delivery
            if delivery.blocked:
                delivery.settle()
                if now - delivery.last_sent_ns > self._options.stall_ns:
                    self.stalled += 1
                    _log.info("stream: subscriber stalled", extra=self._about(subscriber))
                    self._drop(subscriber)
            elif now - delivery.last_sent_ns >= self._options.heartbeat_ns:
                self._beat(subscriber, beats)

    def _beat(self, subscriber: _Subscriber, beats: dict[tuple[int, ...], bytes]) -> None:
        """Send a heartbeat to a subscriber that has all there is; one message for all alike."""
        delivery = subscriber.delivery
        if delivery.behind:
            return
        key = tuple(id(place.channel) for place in delivery.places)
        message = beats.get(key)
        if message is None:
            message = beats[key] = _heartbeat(delivery.places)
        self._send_message(subscriber, message)

    # ---- ends ------------------------------------------------------------------------------

    def _drop(self, subscriber: _Subscriber) -> None:
        if subscriber.socket.fileno() < 0:
            return
        del self._subscribers[subscriber.socket.fileno()]
        self._gone.add(subscriber.delivery.tally)
        self._epoll.unregister(subscriber.socket.fileno())
        subscriber.socket.close()
        _log.debug("stream: subscriber left", extra=self._about(subscriber))

    def close(self) -> None:
        """Say goodbye to everybody and let go of every socket and path."""
        self._arrivals.close()
        for subscriber in list(self._subscribers.values()):
            del self._subscribers[subscriber.socket.fileno()]
            self._gone.add(subscriber.delivery.tally)
            self._epoll.unregister(subscriber.socket.fileno())
            if subscriber.delivery.behind:
                subscriber.socket.close()
            else:
                say_goodbye(subscriber.socket, Refusal.CLOSING, "shutting down")

    # ---- figures ---------------------------------------------------------------------------

    @property
    def refused(self) -> int:
        """Arrivals turned away or given up on."""
        return self._arrivals.refused

    @property
    def subscriber_count(self) -> int:
        return len(self._subscribers)

    @property
    def behind_max(self) -> int:
        """How many frames the subscriber furthest behind is behind."""
        deepest = 0
        for subscriber in self._subscribers.values():
            for place in subscriber.delivery.places:
                deepest = max(deepest, place.channel.head - place.cursor.next)
        return deepest

    def tally(self) -> Tally:
        """The sum over all subscribers, those that left included."""
        total = Tally()
        total.add(self._gone)
        for subscriber in self._subscribers.values():
            total.add(subscriber.delivery.tally)
        return total

    def _about(self, subscriber: _Subscriber) -> dict[str, object]:
        return {"tier": self._policy.name, "subscriber": subscriber.name}


def _first_ordinal(channel: Channel, start: Start, buffer_frames: int) -> int:
    """Where a subscription starts: no further back than the tier's buffer."""
    if start.mode is StartMode.NEWEST:
        return channel.head
    wanted = channel.session_start
    if start.mode is StartMode.SEQUENCE and start.session == channel.session:
        wanted = channel.ordinal_of(start.sequence)
    return max(wanted, channel.head - buffer_frames)


def _range_of(channel: Channel, window: Window, ordinal: int, buffer_frames: int) -> Range:
    def sequence_at(place: int) -> int:
        entry = channel.entry(place) if place < channel.head else None
        return window.last_sequence + 1 if entry is None else entry.sequence

    oldest = max(channel.session_start, channel.head - buffer_frames)
    previous = channel.previous(ordinal) if ordinal < channel.head else channel.last_sequence
    return Range(
        session=channel.session,
        start=sequence_at(ordinal),
        previous=previous,
        oldest=sequence_at(oldest),
        newest=window.last_sequence,
    )


def _heartbeat(places: Sequence[Place]) -> bytes:
    positions = (
        Position(
            kinds=place.channel.kinds,
            session=place.channel.session,
            last=place.channel.last_sequence,
        )
        for place in places
    )
    payload = Heartbeat(tuple(positions)).pack()
    header = FrameHeader(
        kind=Kind.HEARTBEAT,
        session=0,
        sequence=0,
        previous=0,
        publish_ns=time.time_ns(),
        length=len(payload),
    )
    return pack_whole(header.pack(), payload, crc32c(payload))


def _sender(connection: socket.socket) -> Callable[[Sequence[Buffer]], int]:
    sendmsg = connection.sendmsg

    def send(parts: Sequence[Buffer]) -> int:
        try:
            return sendmsg(parts)
        except BlockingIOError:
            return 0

    return send
