"""One ZeroMQ subscription to one address of a Bitcoin Core node, and its message numbers.

Design. The socket's file descriptor is watched by the event loop itself and read until it is empty:
no future, task or poller a message, as ``zmq.asyncio`` would make. That descriptor is
edge-triggered, so whoever stops reading early (to let others run) comes back by itself.

Core numbers the messages of each topic and address from 0, per process, as 32 bits that wrap. A
hole means loss; a step back means that another process now publishes there.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import msgspec
import zmq
from zmq.utils.monitor import parse_monitor_message

RAWBLOCK: Final = b"rawblock"
MESSAGE_BYTES_MAX: Final = 8 << 20
"""No message of Core's is longer; a longer one cuts the connection."""

_TURN_MESSAGES_MAX = 256
_RECONNECT_MS = 100
_RECONNECT_MS_MAX = 1_000
_HEARTBEAT_MS = 10_000
_HEARTBEAT_TIMEOUT_MS = 30_000
_MONITORED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
_NUMBER = struct.Struct("<I")

_log = logging.getLogger(__name__)


class Continuity(enum.Enum):
    """How a message's number follows the one before it."""

    FIRST = "first"
    NEXT = "next"
    GAP = "gap"
    RESTART = "restart"


class Step(NamedTuple):
    """``lost`` messages went missing before this one (after a restart: of the new process).

    ``after_break``: the connection was down in between, and ``on_line_up`` was told since.
    """

    continuity: Continuity
    lost: int
    after_break: bool = False


class TopicNumbers(msgspec.Struct):
    """The message numbers of one topic at one address."""

    last: int | None = None
    messages: int = 0
    lost: int = 0
    gaps: int = 0
    restarts: int = 0
    is_after_break: bool = False
    """The connection stands anew, and this topic's next message is the first on it."""

    def note(self, number: int) -> Step:
        """Take note of the next message's number, 0 to 2**32 - 1."""
        last, self.last = self.last, number
        after_break, self.is_after_break = self.is_after_break, False
        self.messages += 1
        if last is None:
            return Step(Continuity.FIRST, 0)
        lost = (number - last - 1) & 0xFFFF_FFFF
        if lost == 0:
            return Step(Continuity.NEXT, 0)
        if lost < 1 << 31:
            self.gaps += 1
            self.lost += lost
            return Step(Continuity.GAP, lost, after_break)
        self.restarts += 1
        self.lost += number
        return Step(Continuity.RESTART, number, after_break)


class LineSink(Protocol):
    """Who takes a line's messages. Called in the order of the socket."""

    def on_line_up(self, line: ZmqLine) -> None:
        """Connected, or connected again."""
        ...

    def on_line_down(self, line: ZmqLine) -> None:
        """The connection broke; the line goes on trying."""
        ...

    def on_loss(self, line: ZmqLine, topic: bytes, step: Step) -> None:
        """Told before the message that showed it."""
        ...

    def on_message(self, line: ZmqLine, topic: bytes, body: bytes | memoryview) -> None:
        """A ``rawblock``'s body is a view of the socket's own buffer, and stays valid."""
        ...


class ZmqLine:
    """See the module. One asyncio thread; ``open`` and ``close`` from within it."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        topics: Sequence[bytes],
        sink: LineSink,
    ) -> None:
        self.address = address
        self.numbers = {topic: TopicNumbers() for topic in topics}
        self.is_up = False
        self.malformed_count = 0
        self._context = context
        self._sink = sink
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._fds: list[int] = []
        self._turn: asyncio.Handle | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is connected or trying to."""
        return self._socket is not None

    def open(self) -> None:
        """Connect, and keep connecting. Raises zmq.ZMQError for an address that is none, or where
        the host has no descriptor left."""
        if self._socket is not None:
            return
        socket: zmq.Socket[bytes] = self._context.socket(zmq.SUB)
        self._socket = socket
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.RCVHWM, 0),
            (zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX),
            (zmq.RECONNECT_IVL, _RECONNECT_MS),
            (zmq.RECONNECT_IVL_MAX, _RECONNECT_MS_MAX),
            (zmq.HEARTBEAT_IVL, _HEARTBEAT_MS),
            (zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS),
        ):
            socket.setsockopt(option, value)
        for topic in self.numbers:
            socket.setsockopt(zmq.SUBSCRIBE, topic)
        try:
            monitor: zmq.Socket[bytes] = socket.get_monitor_socket(_MONITORED)
            self._monitor = monitor
            socket.connect(self.address)
        except zmq.ZMQError:
            self.close()
            raise
        loop = asyncio.get_running_loop()
        for watched, callback in ((socket, self._read), (monitor, self._read_monitor)):
            fd = watched.getsockopt(zmq.FD)
            assert isinstance(fd, int)
            self._fds.append(fd)
            loop.add_reader(fd, callback)
        self._turn = loop.call_soon(self._look)

    def close(self) -> None:
        """Stop; may be called at any time, and again."""
        if self._socket is None:
            return
        loop = asyncio.get_running_loop()
        for fd in self._fds:
            loop.remove_reader(fd)
        self._fds.clear()
        if self._turn is not None:
            self._turn.cancel()
        if self._monitor is not None:
            self._socket.disable_monitor()
        self._socket.close(0)
        self._socket = self._monitor = None
        self.is_up = False
        for numbers in self.numbers.values():
            numbers.last = None

    def _look(self) -> None:
        """Read what may have come before the descriptors were watched."""
        self._read_monitor()
        self._read()

    def _read(self) -> None:
        for _ in range(_TURN_MESSAGES_MAX):
            socket = self._socket
            if socket is None:  # closed from within a message
                return
            try:
                topic = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._take(socket, topic)
        self._turn = asyncio.get_running_loop().call_soon(self._read)

    def _take(self, socket: zmq.Socket[bytes], topic: bytes) -> None:
        if not socket.getsockopt(zmq.RCVMORE):
            self._malformed(topic)
            return
        parts: Sequence[bytes | memoryview]
        if topic == RAWBLOCK:
            frames = socket.recv_multipart(zmq.NOBLOCK, copy=False)
            parts = [frame.buffer for frame in frames]
        else:
            parts = socket.recv_multipart(zmq.NOBLOCK)
        numbers = self.numbers.get(topic)
        if len(parts) != 2 or len(parts[1]) != 4 or numbers is None:
            self._malformed(topic)
            return
        step = numbers.note(_NUMBER.unpack(parts[1])[0])
        if step.continuity in (Continuity.GAP, Continuity.RESTART):
            self._sink.on_loss(self, topic, step)
        self._sink.on_message(self, topic, parts[0])

    def _malformed(self, topic: bytes) -> None:
        self.malformed_count += 1
        if self.malformed_count == 1:
            _log.warning(
                "%s publishes something else than Bitcoin Core's topics: %r",
                self.address,
                topic[:20],
            )

    def _read_monitor(self) -> None:
        while self._monitor is not None:
            try:
                parts = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            event = parse_monitor_message(parts)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.is_up = True
                for numbers in self.numbers.values():
                    numbers.is_after_break = True
                self._sink.on_line_up(self)
            elif event == zmq.EVENT_DISCONNECTED and self.is_up:
                self.is_up = False
                self._sink.on_line_down(self)
