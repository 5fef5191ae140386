"""The subscriber for a loop: an iterator of frames."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Final, Protocol, Self

from bitcoin_sprint.client.address import Address, parse_address
from bitcoin_sprint.client.frame import Frame
from bitcoin_sprint.client.memory_channel import MemoryChannel
from bitcoin_sprint.client.numbering import OnGap, OnSession
from bitcoin_sprint.client.session import Options, StartAt, StreamSession, make_options
from bitcoin_sprint.client.zmq_link import ZmqLink
from bitcoin_sprint.errors import Disconnected, ProtocolError
from bitcoin_sprint.frames import Kind
from bitcoin_sprint.transports.handshake import Welcome

RECEIVE_BYTES: Final = 256 << 10
_SLICE_S: Final = 0.5


class Link(Protocol):
    """What a transport does for a subscriber."""

    @property
    def gaps(self) -> int: ...

    @property
    def aborted(self) -> int: ...

    @property
    def connections(self) -> int: ...

    @property
    def welcome(self) -> Welcome | None: ...

    @property
    def trouble(self) -> str: ...

    def receive(self, timeout: float | None) -> Frame | None: ...

    def close(self) -> None: ...


class Subscriber:
    """Receives frames from a relay worker; ``for frame in subscriber`` or ``receive(timeout)``.

    Every frame it gives is whole, its checksums right, and comes once. Holes are told to
    ``on_gap(ring, first_missing, last_missing)``, a fresh ring to ``on_session(ring, old, new)``;
    both are called from within ``receive``. A connection that breaks is made again, with growing
    pauses, and goes on at the next number where the tier's buffer still holds it.

    Not safe across threads.
    """

    def __init__(
        self,
        address: str,
        *,
        tier: str = "",
        kinds: Iterable[Kind] = (),
        start: StartAt = "newest",
        on_gap: OnGap | None = None,
        on_session: OnSession | None = None,
        name: str = "",
        reconnect: bool = True,
        connect_timeout: float = 5.0,
        curve_server_key: str = "",
    ) -> None:
        """Prepare a subscription; the connection is made by the first ``receive``, or ``connect``.

        ``address``: ``tcp://host:port``, ``unix:///path`` or ``zmq+tcp://host:port``. ``tier``:
        refuse a port of another; empty takes any. ``kinds``: the frames wanted; empty means all.
        ``start``: "newest" (from the next frame published) or "oldest" (what the tier's buffer
        holds, first); ZeroMQ has "newest" alone. ``name`` is what the server calls us in its
        figures. ``connect_timeout`` in seconds. ``curve_server_key``: the public key of a ZeroMQ
        server with CURVE. Raises ConfigError or ValueError.
        """
        options = make_options(
            tier=tier,
            kinds=kinds,
            start=start,
            name=name,
            reconnect=reconnect,
            connect_timeout=connect_timeout,
            curve_server_key=curve_server_key,
        )
        where = parse_address(address)
        self._link: Link = (
            ZmqLink(where, options, on_gap, on_session)
            if where.transport == "zmq"
            else StreamLink(where, options, on_gap, on_session)
        )
        self._closed = False

    def connect(self) -> Self:
        """Connect and subscribe now, waiting up to ``connect_timeout``; frames published from here
        on are received. Raises Disconnected when nobody answers, SubscriptionRefused."""
        link = self._link
        if isinstance(link, StreamLink):
            link.connect()
        return self

    def receive(self, timeout: float | None = None) -> Frame | None:
        """The next frame; None after ``timeout`` seconds without one.

        Raises SubscriptionRefused when the server won't have us; Disconnected once closed, or when
        the stream ended and ``reconnect`` is off.
        """
        if self._closed:
            raise Disconnected("this subscriber was closed")
        return self._link.receive(timeout)

    def __iter__(self) -> Iterator[Frame]:
        while not self._closed:
            frame = self.receive()
            if frame is not None:
                yield frame

    @property
    def gaps(self) -> int:
        """Holes found so far."""
        return self._link.gaps

    @property
    def aborted(self) -> int:
        """Frames that were begun and given up by the server; never delivered, told as gaps."""
        return self._link.aborted

    @property
    def connections(self) -> int:
        """Times that the server welcomed us."""
        return self._link.connections

    @property
    def welcome(self) -> Welcome | None:
        """What the server last said about itself; None on ZeroMQ and before the first answer."""
        return self._link.welcome

    @property
    def trouble(self) -> str:
        """Why there is no connection at the moment, as far as is known; empty while all is well
        and before the first attempt has ended."""
        return self._link.trouble

    def memory_channel(self) -> MemoryChannel | None:
        """The engine's rings, where it offers them and runs on this host: read them instead.

        Connects first where need be, as ``connect`` does. None, with a warning logged, where the
        rings can't be had; this subscription, the standard relay, goes on either way. ZeroMQ has
        no such offer.
        """
        if self.welcome is None:
            self.connect()
        return MemoryChannel.offered_by(self.welcome)

    def close(self) -> None:
        """Close the connection. May be called again."""
        self._closed = True
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class StreamLink:
    """A subscription over TCP or a Unix socket, blocking."""

    def __init__(
        self,
        address: Address,
        options: Options,
        on_gap: OnGap | None,
        on_session: OnSession | None,
    ) -> None:
        self._address = address
        self._options = options
        self._session = StreamSession(options, on_gap, on_session)
        self._socket: socket.socket | None = None
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._heard = 0.0
        self._retry_at = 0.0
        self._aborted_before = 0
        self._failure = ""
        self._connections_at_failure = 0

    @property
    def gaps(self) -> int:
        return self._session.numbering.gaps

    @property
    def aborted(self) -> int:
        return self._aborted_before + self._session.decoder.aborted

    @property
    def connections(self) -> int:
        return self._session.connections

    @property
    def welcome(self) -> Welcome | None:
        return self._session.welcome

    @property
    def trouble(self) -> str:
        since = self._session.connections - self._connections_at_failure
        return "" if since else self._failure

    def connect(self) -> None:
        deadline = time.monotonic() + self._options.connect_timeout
        before = self._session.connections
        while self._session.connections == before:
            if time.monotonic() >= deadline:
                raise Disconnected("no answer within the connect timeout")
            self._pump(deadline)
            try:
                self._session.peek_welcome()
            except ConnectionError as error:
                self._fail(error)

    def receive(self, timeout: float | None) -> Frame | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                frame = self._session.next_frame()
            except ConnectionError as error:
                self._fail(error)
                continue
            if frame is not None:
                return frame
            self._pump(deadline)
            if deadline is not None and time.monotonic() >= deadline:
                return self._session.next_frame()

    def _pump(self, deadline: float | None) -> None:
        """Connect if need be, then read once; returns by the deadline, or sooner."""
        now = time.monotonic()
        patience = _SLICE_S if deadline is None else max(0.0, min(_SLICE_S, deadline - now))
        if self._socket is None and now < self._retry_at:
            time.sleep(min(patience, self._retry_at - now))
            return
        try:
            if self._socket is None:
                self._socket = self._open()
                self._heard = now
            self._read(self._socket, patience)
        except (OSError, ProtocolError) as error:
            self._fail(error)

    def _open(self) -> socket.socket:
        address = self._address
        connection: socket.socket
        if address.transport == "unix":
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(self._options.connect_timeout)
            try:
                connection.connect(address.path)
            except OSError:
                connection.close()
                raise
        else:
            connection = socket.create_connection(
                (address.host, address.port), self._options.connect_timeout
            )
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._aborted_before += self._session.decoder.aborted
        try:
            connection.sendall(self._session.hello())
        except OSError:
            connection.close()
            raise
        return connection

    def _read(self, connection: socket.socket, patience: float) -> None:
        connection.settimeout(max(patience, 1e-6))
        try:
            count = connection.recv_into(self._buffer)
        except TimeoutError:
            if time.monotonic() - self._heard > self._session.silence_limit:
                raise ConnectionError("the server fell silent") from None
            return
        if count == 0:
            raise ConnectionError("the server closed the connection")
        self._heard = time.monotonic()
        self._session.feed(self._buffer[:count])

    def _fail(self, error: Exception) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._failure = getattr(error, "strerror", None) or str(error) or type(error).__name__
        self._connections_at_failure = self._session.connections
        self._retry_at = time.monotonic() + self._session.failed(error)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
