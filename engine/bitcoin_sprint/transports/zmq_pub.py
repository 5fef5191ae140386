"""ZeroMQ PUB, one socket a tier: Bitcoin Core's topics (``core_topics``), and the native ones.

A native message has four parts: topic, frame header, payload, END record (docs/wire.md); it leaves
as soon as the worker sees the frame, whatever its level. ZeroMQ keeps messages in private memory
until they are sent, so each payload is copied out of the ring once, and only where somebody
subscribed. PUB drops the newest at its high-water mark: what it promises is that every hole shows
in a number. Deadlines hold on the stream, not here.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Final

import zmq

from bitcoin_sprint.errors import ConfigError
from bitcoin_sprint.frames import Kind
from bitcoin_sprint.native import crc32c
from bitcoin_sprint.ports import listen_tcp
from bitcoin_sprint.transports import core_topics
from bitcoin_sprint.transports.codec import (
    HEARTBEAT_TOPIC,
    TOPICS,
    End,
    EndStatus,
    FrameHeader,
)
from bitcoin_sprint.transports.descriptors import QUEUE_MAX, let_in, shut_out
from bitcoin_sprint.transports.handshake import Heartbeat, Position
from bitcoin_sprint.transports.window import Entry

_KNOWN_TOPICS: Final = (*core_topics.TOPICS, *TOPICS.values(), HEARTBEAT_TOPIC)
_COPY_BELOW_BYTES: Final = 4096
_EVENTS_A_TURN: Final = 1024
_FAILURES_MAX: Final = 8192


class _Line:
    """The numbers of one native topic."""

    __slots__ = ("last", "session")

    def __init__(self) -> None:
        self.session = 0
        self.last = 0


class ZmqPublisher:
    """One tier's ZeroMQ socket. Owned by one thread; ZeroMQ sends on its own.

    An XPUB socket, which subscribers can't tell from PUB: it tells us what is subscribed to, so
    that nothing is copied for nobody.
    """

    def __init__(
        self,
        *,
        high_water_mark: int,
        curve_secret_key: str = "",
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """``high_water_mark``: messages that ZeroMQ keeps for one subscriber before it drops the
        newest. ``curve_secret_key``: the server's secret key, 40 characters of Z85; only clients
        that know its public half can then connect. Raises ConfigError for a key that is none."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._clock = clock
        self._prefixes: set[bytes] = set()
        self._wanted: dict[bytes, bool] = dict.fromkeys(_KNOWN_TOPICS, False)
        self._lines = {kind: _Line() for kind in TOPICS}
        self._expected: dict[int, tuple[int, int]] = {}
        self.sent = 0
        self.bytes = 0
        self._listener: socket.socket | None = None
        self._monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(zmq.EVENT_ACCEPT_FAILED)
        self._socket.setsockopt(zmq.SNDHWM, high_water_mark)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        if curve_secret_key:
            self._use_curve(curve_secret_key)

    def _use_curve(self, secret_key: str) -> None:
        try:
            self._socket.setsockopt(zmq.CURVE_SECRETKEY, secret_key.encode())
            self._socket.setsockopt(zmq.CURVE_SERVER, 1)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(
                "relay.zmq_curve_key_file: holds no CURVE secret key (40 characters of Z85), "
                f"or ZeroMQ was built without CURVE: {error.strerror}"
            ) from error

    def bind(self, key: str, host: str, port: int) -> int:
        """Listen on host:port (0: any free one); returns the port. ``key`` is its setting.
        Raises HostError."""
        self._listener = listen_tcp(key, host, port, QUEUE_MAX)
        bound = int(self._listener.getsockname()[1])
        # ZeroMQ takes a listener's descriptor over; ours stays our hold on it.
        self._socket.setsockopt(zmq.USE_FD, os.dup(self._listener.fileno()))
        if ":" in host:
            self._socket.setsockopt(zmq.IPV6, 1)
            host = f"[{host}]"
        self._socket.bind(f"tcp://{host}:{bound}")
        return bound

    def pause(self) -> None:
        """Let nobody connect for now; who is connected is served on."""
        if self._listener is not None:
            shut_out(self._listener)

    def resume(self) -> None:
        """Let others connect again."""
        if self._listener is not None:
            let_in(self._listener)

    def accept_failed(self) -> bool:
        """Whether ZeroMQ could not accept a connection since the last call. To be asked several
        times a second: ZeroMQ's thread waits once it has told of it a few thousand times."""
        failed = False
        for _ in range(_FAILURES_MAX):
            try:
                self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return failed
            failed = True
        return failed

    def fileno(self) -> int:
        """Becomes readable (edge-triggered) when subscriptions change; then ``refresh``."""
        return int(self._socket.getsockopt(zmq.FD))

    def refresh(self) -> None:
        """Take note of subscriptions that came and went."""
        changed = False
        for _ in range(_EVENTS_A_TURN):
            try:
                event = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            prefix = event[1:]
            if event[:1] not in (b"\0", b"\1") or not any(
                topic.startswith(prefix) for topic in _KNOWN_TOPICS
            ):
                continue  # of no topic of ours: not worth the memory
            if event[:1] == b"\1":
                self._prefixes.add(prefix)
            else:
                self._prefixes.discard(prefix)
            changed = True
        if changed:
            for topic in _KNOWN_TOPICS:
                self._wanted[topic] = any(topic.startswith(p) for p in self._prefixes)

    def wants(self, topic: bytes) -> bool:
        """Whether anybody subscribed to a topic."""
        return self._wanted[topic]

    @property
    def topics_wanted(self) -> int:
        return sum(self._wanted.values())

    # ---- sending ---------------------------------------------------------------------------

    def send_core(self, topic: bytes, body: bytes | memoryview, counter: bytes) -> None:
        """Send one of Bitcoin Core's notifications."""
        self._part(topic, zmq.SNDMORE)
        self._part(body, zmq.SNDMORE)
        self._part(counter, 0)
        self.sent += 1

    def number(self, entry: Entry) -> int:
        """The number before this frame on its topic. To be asked for every frame, in order."""
        self._notice_holes(entry)
        line = self._lines.get(entry.kind)
        if line is None:
            return 0
        previous, line.last = line.last, entry.sequence
        return previous

    def publish(self, entry: Entry, previous: int) -> bool:
        """Send a frame on its native topic, if anybody wants it; whether it was sent.

        May be done later than ``number``, and out of order. A frame that was overwritten meanwhile
        leaves a hole: the next one's ``previous`` names it.
        """
        topic = TOPICS.get(entry.kind)
        if topic is None:
            return False
        if not self._wanted[topic]:
            return False
        payload = entry.frame.copy() if entry.bulky else entry.small()
        if payload is None:
            return False
        self._native(topic, entry.header(previous), payload, entry.crc32c)
        return True

    def _notice_holes(self, entry: Entry) -> None:
        """Notice a new session, and frames that passed the worker unseen: then every topic of that
        ring may miss some."""
        ring = entry.kind // 16
        identity = (entry.session, entry.sequence)
        if self._expected.get(ring) != identity:
            for kind, line in self._lines.items():
                if kind // 16 != ring:
                    continue
                if line.session != identity[0]:
                    line.session, line.last = identity[0], 0
                line.last = max(line.last, entry.sequence - 1)
        self._expected[ring] = (identity[0], entry.sequence + 1)

    def heartbeat(self) -> None:
        """Tell each topic's last number, so that a loss at the end shows as well."""
        if not self._wanted[HEARTBEAT_TOPIC]:
            return
        positions = tuple(
            Position(kinds=1 << kind, session=line.session, last=line.last)
            for kind, line in self._lines.items()
        )
        payload = Heartbeat(positions).pack()
        header = FrameHeader(
            kind=Kind.HEARTBEAT,
            session=0,
            sequence=0,
            previous=0,
            publish_ns=self._clock(),
            length=len(payload),
        )
        self._native(HEARTBEAT_TOPIC, header.pack(), payload, crc32c(payload))

    def _native(self, topic: bytes, header: bytes, payload: bytes, crc: int) -> None:
        self._part(topic, zmq.SNDMORE)
        self._part(header, zmq.SNDMORE)
        self._part(payload, zmq.SNDMORE)
        self._part(End(EndStatus.OK, 0, crc).pack(), 0)
        self.sent += 1

    def _part(self, part: bytes | memoryview, flags: int) -> None:
        # A large part is handed over as it is: it is private memory that nobody changes.
        self._socket.send(part, flags | zmq.NOBLOCK, copy=len(part) < _COPY_BELOW_BYTES)
        self.bytes += len(part)

    def close(self) -> None:
        """Close the socket; what is queued is dropped. May be called again."""
        if not self._socket.closed:
            self._socket.disable_monitor()
            self._monitor.close(0)
        self._socket.close()
        self._context.term()
        if self._listener is not None:
            self._listener.close()
