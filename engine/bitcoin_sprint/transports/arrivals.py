"""How connections come in: listeners, and the handshake up to a subscription.

Bounds: connections that have not subscribed are limited in number (the oldest is given up for a
newer one), in time and in bytes. Nothing blocks; whoever is refused is told why where it listens.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from bitcoin_sprint.errors import ConfigError, HostError, ProtocolError
from bitcoin_sprint.ports import listen_tcp
from bitcoin_sprint.transports.codec import (
    HANDSHAKE_BYTES_MAX,
    PREFIX,
    Message,
    MessageSplitter,
    pack_message,
)
from bitcoin_sprint.transports.handshake import (
    ErrorMessage,
    Refusal,
    Subscribe,
    VersionRefused,
)

_log = logging.getLogger(__name__)

READ: Final = select.EPOLLIN | select.EPOLLRDHUP
_ACCEPTS_A_TURN: Final = 64
_SECOND_NS: Final = 1_000_000_000

Take = Callable[[socket.socket, Subscribe], None]
"""Makes a subscriber of a connection, already registered for reading. Raises ProtocolError or
ConfigError when it won't; the connection is then refused."""


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the stream server says of itself, and its bounds; durations in nanoseconds."""

    network: str
    server: str = "bitcoin-sprint"
    memory_instance: str = ""
    memory_directory: str = ""
    subscribers_max: int = 16_384
    arrivals_max: int = 256
    handshake_ns: int = 5 * _SECOND_NS
    heartbeat_ns: int = _SECOND_NS
    stall_ns: int = 120 * _SECOND_NS
    backlog: int = 1_024


class _Arrival:
    """A connection that has not subscribed yet."""

    __slots__ = ("since_ns", "socket", "splitter")

    def __init__(self, connection: socket.socket, now: int) -> None:
        self.socket = connection
        self.since_ns = now
        self.splitter = MessageSplitter()


class Arrivals:
    """One tier's listeners and the connections that have not subscribed yet. One thread's."""

    def __init__(
        self,
        tier: str,
        epoll: select.epoll,
        options: StreamOptions,
        clock: Callable[[], int],
        *,
        take: Take,
        is_full: Callable[[], bool],
        on_short: Callable[[str], object],
    ) -> None:
        """``on_short`` is told that the host gives no more descriptors: it is to ``pause``."""
        self._tier = tier
        self._epoll = epoll
        self._options = options
        self._clock = clock
        self._take = take
        self._is_full = is_full
        self._on_short = on_short
        self._listeners: dict[int, socket.socket] = {}
        self._is_paused = False
        self._unix_paths: list[Path] = []
        self._waiting: dict[int, _Arrival] = {}
        self.refused = 0
        """Arrivals turned away or given up on."""

    def listen_tcp(self, host: str, port: int) -> int:
        """Listen on host:port (0: any free one); returns the port. Raises HostError."""
        key = f"relay.tiers.{self._tier}.stream_port"
        listener = listen_tcp(key, host, port, self._options.backlog)
        self._add_listener(listener)
        return int(listener.getsockname()[1])

    def listen_unix(self, path: Path) -> None:
        """Listen on a Unix socket, replacing one that nobody listens on. Raises HostError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(path)
            listener.bind(str(path))
            path.chmod(0o660)
            listener.listen(self._options.backlog)
        except OSError as error:
            listener.close()
            raise HostError(
                f"relay.unix_directory: tier {self._tier} cannot listen on {path}: "
                f"{error.strerror or error}"
            ) from error
        self._unix_paths.append(path)
        self._add_listener(listener)

    def _add_listener(self, listener: socket.socket) -> None:
        self._listeners[listener.fileno()] = listener
        if not self._is_paused:
            self._epoll.register(listener.fileno(), select.EPOLLIN)

    def handle(self, descriptor: int) -> bool:
        """Take an event of epoll; False when the descriptor is none of these."""
        if descriptor in self._waiting:
            self._read(self._waiting[descriptor])
        elif descriptor in self._listeners:
            self._accept(self._listeners[descriptor])
        else:
            return False
        return True

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            try:
                connection, _address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._on_short(error.strerror or str(error))
                    return
                continue  # that one connection broke while it waited
            self._welcome_arrival(connection)

    def pause(self) -> None:
        """Accept nobody for now: whoever connects waits in the kernel's queue."""
        if not self._is_paused:
            self._is_paused = True
            for descriptor in self._listeners:
                self._epoll.unregister(descriptor)

    def resume(self) -> None:
        """Accept again."""
        if self._is_paused:
            self._is_paused = False
            for descriptor in self._listeners:
                self._epoll.register(descriptor, select.EPOLLIN)

    def _welcome_arrival(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        _tune(connection)
        if self._is_full():
            self._refuse(connection, Refusal.FULL, "as many subscribers as this worker takes")
            return
        if len(self._waiting) >= self._options.arrivals_max:
            oldest = next(iter(self._waiting.values()))
            self._refuse_arrival(oldest, Refusal.TIMEOUT, "too many arrivals at once")
        descriptor = connection.fileno()
        self._waiting[descriptor] = _Arrival(connection, self._clock())
        self._epoll.register(descriptor, READ)

    def _read(self, arrival: _Arrival) -> None:
        try:
            data = arrival.socket.recv(HANDSHAKE_BYTES_MAX + PREFIX.size)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._forget(arrival)
            arrival.socket.close()
            self.refused += 1
            return
        arrival.splitter.feed(data)
        try:
            message = arrival.splitter.next()
            if message is None:
                return
            kind, _stream, body = message
            if kind is not Message.SUBSCRIBE:
                raise ProtocolError(f"{kind.name} before SUBSCRIBE")
            if arrival.splitter.pending:
                raise ProtocolError("more than SUBSCRIBE")
            descriptor = arrival.socket.fileno()
            self._take(arrival.socket, Subscribe.unpack(body))
            del self._waiting[descriptor]
        except VersionRefused as error:
            self._refuse_arrival(arrival, Refusal.VERSION, str(error))
        except ProtocolError as error:
            self._refuse_arrival(arrival, Refusal.MALFORMED, str(error))
        except ConfigError as error:
            self._refuse_arrival(arrival, Refusal.TIER, str(error))

    def tick(self) -> None:
        """What time alone brings: handshakes that took too long."""
        now = self._clock()
        for arrival in list(self._waiting.values()):
            if now - arrival.since_ns > self._options.handshake_ns:
                self._refuse_arrival(arrival, Refusal.TIMEOUT, "no SUBSCRIBE in time")

    def close(self) -> None:
        """Say goodbye to all that wait, close the listeners and remove their paths."""
        for arrival in list(self._waiting.values()):
            self._refuse_arrival(arrival, Refusal.CLOSING, "shutting down")
        self.pause()
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        for path in self._unix_paths:
            path.unlink(missing_ok=True)
        self._unix_paths.clear()

    def _forget(self, arrival: _Arrival) -> None:
        del self._waiting[arrival.socket.fileno()]
        self._epoll.unregister(arrival.socket.fileno())

    def _refuse_arrival(self, arrival: _Arrival, code: Refusal, text: str) -> None:
        self._forget(arrival)
        self._refuse(arrival.socket, code, text)

    def _refuse(self, connection: socket.socket, code: Refusal, text: str) -> None:
        self.refused += 1
        _log.debug("stream: refused", extra={"tier": self._tier, "reason": text})
        say_goodbye(connection, code, text)


def _tune(connection: socket.socket) -> None:
    """No waiting for more to send; dead peers found. TCP's send buffer is left to the kernel, which
    grows it with the window; a fixed one would only be smaller. A Unix socket's doesn't grow."""
    if connection.family == socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def say_goodbye(connection: socket.socket, code: Refusal, text: str) -> None:
    """Send ERROR and close. What the peer sent is read first, within a bound: closing over unread
    bytes would reset the connection, and the peer might never see why."""
    message = pack_message(Message.ERROR, ErrorMessage(code, text[:200]).pack())
    with contextlib.suppress(OSError):
        connection.send(message)
        connection.shutdown(socket.SHUT_WR)
        for _ in range(4):
            if not connection.recv(16_384):
                break
    connection.close()


def _remove_stale(path: Path) -> None:
    """Remove a Unix socket that nobody listens on any more."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError:
            return
    raise OSError(errno.EADDRINUSE, "another process listens there")
