"""The line between ``sprintd`` and each of its processes: one JSON text a line, both ways.

A process is born with one end of a socket pair; the order comes down it, the answer goes up: "it
serves", or why not. The line stays open for life. When it closes, the supervisor is gone. What
then happens is told with the order: a process that does not ``stay`` stops, one that stays serves
on and can be reached by a supervisor's successor at its address, a Unix socket in the abstract
namespace (no file is left behind). ``child_end`` is the process's side, this the supervisor's.

Who may speak: both ends ask the kernel who sits at the other (SO_PEERCRED) and speak with their own
user alone. At an address that another user has taken, nobody is adopted.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import socket
import struct
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from bitcoin_sprint.config import Config
from bitcoin_sprint.control.placement import Seat

VERSION: Final = importlib.metadata.version("bitcoin-sprint")
"""The version of the code that runs: asked while it is loaded, for another one may be installed
under a running process."""
MESSAGE_BYTES_MAX: Final = 1 << 20
_SEND_S: Final = 1.0
_UCRED: Final = struct.Struct("iII")
_SHM_DIRECTORY: Final = Path("/dev/shm")
_STAT_STARTED: Final = 19
"""Index of ``starttime`` in /proc/<pid>/stat behind the process's name: field 22 of proc(5)."""


class Order(msgspec.Struct, frozen=True, tag="order"):
    """What a process is told at its start.

    ``stays``: whether it serves on without a supervisor. ``digest`` stands for all of the order
    that cannot change at run time: a successor's own tells whether it would give the same order.
    """

    role: str
    config: Config
    seat: Seat = Seat()
    stays: bool = False
    digest: str = ""


class Inquiry(msgspec.Struct, frozen=True, tag="inquiry"):
    """A supervisor's first word to a process that it did not start; answered by ``Identity``."""


class Adoption(msgspec.Struct, frozen=True, tag="adoption"):
    """A supervisor's word that it keeps a process. ``config`` as for ``Reload``; with it come the
    supervisor's own output and error output: where the old one's led, nobody may be listening.
    ``journal_stream``: what its service manager says of them, its JOURNAL_STREAM."""

    config: Config
    journal_stream: str = ""


class Reload(msgspec.Struct, frozen=True, tag="reload"):
    """A configuration that differs from the order's in keys that can change at run time."""

    config: Config


Message = Order | Inquiry | Adoption | Reload


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """What a process says to its order: it serves, or why it cannot."""

    ready: bool
    error: str = ""


class Identity(msgspec.Struct, frozen=True, tag="identity"):
    """Who a process is. ``started_ticks`` as in /proc/<pid>/stat: with the pid it is unique until
    the host is booted again. ``ready``: whether it serves."""

    pid: int
    started_ticks: int
    instance: str
    role: str
    version: str
    digest: str
    ready: bool


Reply = Answer | Identity


class Peer(NamedTuple):
    """Who made the other end of a socket, as the kernel says."""

    pid: int
    uid: int


def address_of(instance: str, role: str) -> bytes:
    """Return the abstract address at which a process of ours can be reached.

    An instance's name is unique within one /dev/shm; abstract addresses within one network, which
    containers may share. So the one names the other.
    """
    device = _SHM_DIRECTORY.stat().st_dev
    return f"\0bitcoin-sprint/{os.geteuid()}/{device}/{instance}/{role}".encode()


def peer_of(line: socket.socket) -> Peer:
    """Return who sits at the other end: for one that we connected to, who listens there."""
    size = _UCRED.size
    pid, uid, _gid = _UCRED.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return Peer(pid, uid)


def started_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot. Raises OSError."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    return int(text.rpartition(")")[2].split()[_STAT_STARTED])


def encode(message: Message | Reply) -> bytes:
    """Return a message as one line."""
    return msgspec.json.encode(message) + b"\n"


class SupervisorEnd:
    """The supervisor's end of one process's line. Belongs to the running asyncio loop."""

    def __init__(self, line: socket.socket) -> None:
        """Take over ``line``."""
        line.setblocking(False)
        self._socket = line
        self._received = b""

    async def send(self, message: Message) -> bool:
        """Send a message; False when the process is gone or does not take it within a second."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_SEND_S):
                await loop.sock_sendall(self._socket, encode(message))
        except OSError:  # TimeoutError among them
            return False
        return True

    def adopt(self, config: Config) -> None:
        """Tell a process that it is ours now, and give it our outputs."""
        message = encode(Adoption(config, os.environ.get("JOURNAL_STREAM", "")))
        with contextlib.suppress(OSError):  # it is gone
            socket.send_fds(self._socket, [message], [1, 2])

    async def receive(self) -> Reply | None:
        """Return the next reply; None when the process says nonsense. ConnectionError when it
        closed the line."""
        loop = asyncio.get_running_loop()
        while b"\n" not in self._received and len(self._received) < MESSAGE_BYTES_MAX:
            piece = await loop.sock_recv(self._socket, 4096)
            if not piece:
                raise ConnectionError("the process closed the line")
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        with contextlib.suppress(msgspec.DecodeError):
            reply: Reply = msgspec.json.decode(line, type=Reply)
            return reply
        return None

    def close(self) -> None:
        """Close this end. May be called again."""
        self._socket.close()
