"""The subscriber for asyncio (and uvloop)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Protocol, Self

from bitcoin_sprint.client.address import Address, parse_address
from bitcoin_sprint.client.frame import Frame
from bitcoin_sprint.client.memory_channel import MemoryChannel
from bitcoin_sprint.client.numbering import OnGap, OnSession
from bitcoin_sprint.client.session import Options, StartAt, StreamSession, make_options
from bitcoin_sprint.client.subscriber import RECEIVE_BYTES
from bitcoin_sprint.client.zmq_link import AsyncZmqLink
from bitcoin_sprint.errors import Disconnected, ProtocolError
from bitcoin_sprint.frames import Kind
from bitcoin_sprint.transports.handshake import Welcome


class AsyncLink(Protocol):
    """What a transport does for a subscriber."""

    @property
    def gaps(self) -> int: ...

    @property
    def aborted(self) -> int: ...

    @property
    def connections(self) -> int: ...

    @property
    def welcome(self) -> Welcome | None: ...

    async def connect(self) -> None: ...

    async def receive(self) -> Frame: ...

    async def close(self) -> None: ...


class AsyncSubscriber:
    """Receives frames from a relay worker: ``async for frame in subscriber``, or ``receive``.

    The same promises as ``Subscriber``; the callbacks run on the loop, from within ``receive``. For
    one task at a time. Cancelling ``receive`` loses nothing.
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
        """The arguments are those of ``Subscriber``. Make it where the loop runs."""
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
        self._link: AsyncLink = (
            AsyncZmqLink(where, options, on_gap, on_session)
            if where.transport == "zmq"
            else AsyncStreamLink(where, options, on_gap, on_session)
        )
        self._timeout = connect_timeout
        self._closed = False

    async def connect(self) -> Self:
        """Connect and subscribe now; frames published from here on are received.

        Raises Disconnected when nobody answers in time, SubscriptionRefused.
        """
        try:
            async with asyncio.timeout(self._timeout):
                await self._link.connect()
        except TimeoutError:
            raise Disconnected("no answer within the connect timeout") from None
        return self

    async def receive(self, timeout: float | None = None) -> Frame | None:
        """The next frame; None after ``timeout`` seconds without one. Raises as ``Subscriber``."""
        if self._closed:
            raise Disconnected("this subscriber was closed")
        if timeout is None:
            return await self._link.receive()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                return await self._link.receive()
        return None

    async def __aiter__(self) -> AsyncIterator[Frame]:
        while not self._closed:
            frame = await self.receive()
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

    async def memory_channel(self) -> MemoryChannel | None:
        """As ``Subscriber.memory_channel``."""
        if self.welcome is None:
            await self.connect()
        return MemoryChannel.offered_by(self.welcome)

    async def close(self) -> None:
        """Close the connection. May be called again."""
        self._closed = True
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class AsyncStreamLink:
    """A subscription over TCP or a Unix socket for asyncio."""

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
        self._buffer = bytearray(RECEIVE_BYTES)
        self._retry_delay = 0.0
        self._aborted_before = 0

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

    async def connect(self) -> None:
        before = self._session.connections
        while self._session.connections == before:
            await self._pump()
            try:
                self._session.peek_welcome()
            except ConnectionError as error:
                self._fail(error)

    async def receive(self) -> Frame:
        while True:
            try:
                frame = self._session.next_frame()
            except ConnectionError as error:
                self._fail(error)
                continue
            if frame is not None:
                return frame
            await self._pump()

    async def _pump(self) -> None:
        """Connect if need be, then read once."""
        try:
            if self._socket is None:
                await asyncio.sleep(self._retry_delay)
                self._retry_delay = 0.0
                async with asyncio.timeout(self._options.connect_timeout):
                    self._socket = await self._open()
            await self._read(self._socket)
        except (OSError, ProtocolError) as error:  # TimeoutError is an OSError
            self._fail(error)

    async def _open(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        address = self._address
        if address.transport == "unix":
            targets: list[tuple[int, Any]] = [(socket.AF_UNIX, address.path)]
        else:
            found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            targets = [(entry[0], entry[4]) for entry in found]
        error: OSError = ConnectionError("no address")
        for family_found, where in targets:
            connection = socket.socket(family_found, socket.SOCK_STREAM)
            connection.setblocking(False)
            try:
                await loop.sock_connect(connection, where)
                if address.transport == "tcp":
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._aborted_before += self._session.decoder.aborted
                await loop.sock_sendall(connection, self._session.hello())
            except OSError as refused:
                connection.close()
                error = refused
            except BaseException:
                connection.close()
                raise
            else:
                return connection
        raise error

    async def _read(self, connection: socket.socket) -> None:
        """Read what is there, waiting for it. Only the waiting can be cancelled: bytes once taken
        from the socket are fed, so that a cancelled ``receive`` loses nothing."""
        try:
            count = connection.recv_into(self._buffer)
        except BlockingIOError:
            async with asyncio.timeout(self._session.silence_limit):
                await _readable(connection)
            return
        if count == 0:
            raise ConnectionError("the server closed the connection")
        self._session.feed(memoryview(self._buffer)[:count])

    def _fail(self, error: Exception) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._retry_delay = self._session.failed(error)

    async def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    descriptor = connection.fileno()
    loop.add_reader(descriptor, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
