"""pyzmq PUB/SUB over ipc, its reader spinning or blocking."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator

import zmq

from bench.oneway import Load, Payload, PythonReading, PythonWriting

_ZERO_COPY_BYTES = 65_536


class PyzmqIpc:
    """``spin`` receives with NOBLOCK in a loop; otherwise the reader sleeps in ``recv``.

    Messages of 64 KiB and more go and come without a copy in Python.
    """

    def __init__(self, *, spin: bool) -> None:
        self.name = "pyzmq ipc"
        self.variant = "spinning" if spin else "blocking"
        self._flags = zmq.NOBLOCK if spin else 0
        self._directory = tempfile.TemporaryDirectory(prefix="sprint-bench-")
        self._address = f"ipc://{self._directory.name}/pub"

    @contextlib.contextmanager
    def writing(self, load: Load) -> Iterator[PythonWriting]:
        """A bound PUB socket without a high-water mark."""
        with zmq.Context() as context, context.socket(zmq.PUB) as socket:
            socket.set_hwm(0)
            socket.linger = 1000
            socket.bind(self._address)
            if load.size < _ZERO_COPY_BYTES:
                yield PythonWriting(load, socket.send)
            else:
                yield PythonWriting(load, *_zero_copy(socket))

    @contextlib.contextmanager
    def reading(self, load: Load) -> Iterator[PythonReading]:
        """A connected SUB socket."""
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.set_hwm(0)
            socket.subscribe(b"")
            socket.connect(self._address)
            copies = load.size < _ZERO_COPY_BYTES
            receive = _copying if copies else _zero_copying
            yield PythonReading(load, receive(socket, self._flags))


def _zero_copy(
    socket: zmq.Socket[bytes],
) -> tuple[Callable[[bytearray], object], Callable[[bytearray], object]]:
    """Send and stage; libzmq keeps what it is given until it is sent, so each gets its own."""
    staged: list[bytes] = []

    def stage(payload: bytearray) -> None:
        staged.append(bytes(payload))

    def send(_payload: bytearray) -> None:
        socket.send(staged.pop(), copy=False)

    return send, stage


def _copying(socket: zmq.Socket[bytes], flags: int) -> Callable[[], Payload]:
    receive, again = socket.recv, zmq.Again

    def wait() -> Payload:
        while True:
            try:
                return receive(flags)
            except again:
                pass

    return wait


def _zero_copying(socket: zmq.Socket[bytes], flags: int) -> Callable[[], Payload]:
    receive, again = socket.recv, zmq.Again

    def wait() -> Payload:
        while True:
            try:
                return receive(flags, copy=False).buffer
            except again:
                pass

    return wait
