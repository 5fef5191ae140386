"""The line between ``sprintd`` and each of its processes: one socket pair, one JSON text a line.

The supervisor sends the configuration and keeps its end open for life; the process answers once
it is ready. When the supervisor's end closes, the supervisor is gone: the process then stops as
on SIGTERM, so that nothing outlives an engine that nobody watches.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import Final

import msgspec

from bitcoin_sprint.config import Config
from bitcoin_sprint.control.placement import Seat
from bitcoin_sprint.errors import SprintError

_MESSAGE_BYTES_MAX: Final = 1 << 20


class Order(msgspec.Struct, frozen=True):
    """What a process is told at its start."""

    role: str
    config: Config
    seat: Seat = Seat()


class Answer(msgspec.Struct, frozen=True):
    """What a process says to its order: it serves, or why it cannot."""

    ready: bool
    error: str = ""


class ChildEnd:
    """The process's end of the line."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(True)
        self._answered = False
        os.set_inheritable(descriptor, False)

    def receive_order(self) -> Order:
        """Wait for the order; SprintError when the supervisor is gone before it came."""
        received = bytearray()
        while not received.endswith(b"\n"):
            piece = self._socket.recv(65_536)
            if not piece or len(received) > _MESSAGE_BYTES_MAX:
                raise SprintError("the supervisor went away before it said what to do")
            received += piece
        return msgspec.json.decode(received, type=Order)

    def say_ready(self) -> None:
        """Tell the supervisor that this process serves. Never raises: it may just have gone."""
        self._answer(Answer(ready=True))

    def say_failed(self, error: str) -> None:
        """Tell the supervisor why this process cannot serve; nothing once it was ready."""
        if not self._answered:
            self._answer(Answer(ready=False, error=error))

    @property
    def answered(self) -> bool:
        """Whether the supervisor has had its answer."""
        return self._answered

    def stop_with_supervisor(self) -> None:
        """From now on stop (SIGTERM to ourselves) when the supervisor goes away."""
        threading.Thread(target=self._watch, name="supervisor-watch", daemon=True).start()

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _answer(self, answer: Answer) -> None:
        self._answered = True
        try:
            self._socket.sendall(msgspec.json.encode(answer) + b"\n")
        except OSError:
            return

    def _watch(self) -> None:
        try:
            while self._socket.recv(4096):
                pass
        except OSError:
            pass
        os.kill(os.getpid(), signal.SIGTERM)


def decode_answer(line: bytes) -> Answer | None:
    """Return a process's answer; None when it died without one."""
    return msgspec.json.decode(line, type=Answer) if line.endswith(b"\n") else None


def encode_order(order: Order) -> bytes:
    """Return the order as the line that ``ChildEnd`` reads."""
    return msgspec.json.encode(order) + b"\n"
