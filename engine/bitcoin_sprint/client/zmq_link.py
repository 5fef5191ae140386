"""Subscriptions over the native ZeroMQ topics.

ZeroMQ connects, reconnects and queues by itself, and PUB drops the newest at its high-water mark:
what was dropped shows in each topic's ``previous``, or in the next heartbeat.
"""

from __future__ import annotations

import time
from typing import Any

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from bitcoin_sprint.client.address import Address
from bitcoin_sprint.client.decoder import ZmqDecoder
from bitcoin_sprint.client.frame import Frame
from bitcoin_sprint.client.numbering import Numbering, OnGap, OnSession
from bitcoin_sprint.client.session import Options
from bitcoin_sprint.errors import ConfigError
from bitcoin_sprint.transports.codec import HEARTBEAT_TOPIC, TOPICS
from bitcoin_sprint.transports.handshake import Welcome

_HIGH_WATER_MARK = 100_000
_HANDSHAKE_FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
)
_MONITORED = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


def _prepare(socket: zmq.Socket[Any], address: Address, options: Options) -> None:
    if options.start != "newest":
        raise ValueError("start = 'oldest': ZeroMQ delivers only what is published from now on")
    socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MARK)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 5_000)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, round(options.connect_timeout * 1000))
    if ":" in address.host:
        socket.setsockopt(zmq.IPV6, 1)
    if options.curve_server_key:
        _use_curve(socket, options.curve_server_key)
    for kind in options.kinds or TOPICS:
        socket.setsockopt(zmq.SUBSCRIBE, TOPICS[kind])
    socket.setsockopt(zmq.SUBSCRIBE, HEARTBEAT_TOPIC)
    socket.connect(address.zmq_endpoint)


def _use_curve(socket: zmq.Socket[Any], server_key: str) -> None:
    """Encrypt, under a key of our own for this subscription alone."""
    public, secret = zmq.curve_keypair()
    try:
        socket.setsockopt(zmq.CURVE_SERVERKEY, server_key.encode())
    except zmq.ZMQError as error:
        raise ConfigError(f"curve_server_key = {server_key!r}: {error.strerror}") from error
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)


class ZmqLink:
    """A blocking subscription over ZeroMQ."""

    aborted = 0
    connections = 0
    welcome: Welcome | None = None

    def __init__(
        self,
        address: Address,
        options: Options,
        on_gap: OnGap | None,
        on_session: OnSession | None,
    ) -> None:
        self._numbering = Numbering(on_gap, on_session, by_topic=True)
        self._decoder = ZmqDecoder(self._numbering)
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        self._monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(_MONITORED)
        self._trouble = ""
        try:
            _prepare(self._socket, address, options)
        except BaseException:
            self.close()
            raise

    @property
    def gaps(self) -> int:
        return self._numbering.gaps

    def receive(self, timeout: float | None) -> Frame | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left_ms = None
            if deadline is not None:
                left_ms = max(0, round((deadline - time.monotonic()) * 1000))
            if not self._socket.poll(left_ms):
                return None
            frame = self._decoder.decode(self._socket.recv_multipart())
            if frame is not None:
                return frame

    @property
    def trouble(self) -> str:
        while not self._monitor.closed and self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._trouble = ""
            elif event in _HANDSHAKE_FAILURES:
                self._trouble = "the handshake failed; is it a ZeroMQ server, and its key right?"
            elif not self._trouble:
                broken = event == zmq.EVENT_DISCONNECTED
                self._trouble = "the connection broke" if broken else "nobody answers"
        return self._trouble

    def close(self) -> None:
        self._socket.disable_monitor()
        self._socket.close()


class AsyncZmqLink:
    """A subscription over ZeroMQ for asyncio."""

    aborted = 0
    connections = 0
    welcome: Welcome | None = None

    def __init__(
        self,
        address: Address,
        options: Options,
        on_gap: OnGap | None,
        on_session: OnSession | None,
    ) -> None:
        self._numbering = Numbering(on_gap, on_session, by_topic=True)
        self._decoder = ZmqDecoder(self._numbering)
        self._socket = zmq.asyncio.Context.instance().socket(zmq.SUB)
        # Waiting can be cancelled, taking cannot: the same socket, received from without a future
        # in which a message could be lost.
        self._taking: zmq.Socket[bytes] = zmq.Socket.shadow(self._socket.underlying)
        try:
            _prepare(self._taking, address, options)
        except BaseException:
            self._socket.close()
            raise

    @property
    def gaps(self) -> int:
        return self._numbering.gaps

    async def connect(self) -> None:
        """ZeroMQ connects by itself."""

    async def receive(self) -> Frame:
        while True:
            try:
                parts = self._taking.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                await self._socket.poll()
                continue
            frame = self._decoder.decode(parts)
            if frame is not None:
                return frame

    async def close(self) -> None:
        self._socket.close()
