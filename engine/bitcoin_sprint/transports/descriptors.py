"""What a worker does when the host gives it no more descriptors, and how a listener is shut up.

Design. A worker holds some descriptors for nothing. Once an accept fails for want of one, it lets
go of them and takes no more subscribers: what it needs itself (to attach to a ring anew) and what
ZeroMQ has in its listener's queue finds room there. Once a second it tries to take the reserve
back; when that works, descriptors have come back, and its listeners open again.

ZeroMQ accepts in a thread of its own, which knows no pause: with a connection in the queue and no
descriptor it would turn for ever. So its listener is made by us, with a queue shorter than the
reserve, and a packet filter on it that drops whatever comes: those who connect try again by
themselves (that is TCP's business), and those who are connected notice nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import socket
import struct
from typing import Final

from bitcoin_sprint.episode import Episode

RESERVE: Final = 80
MARGIN: Final = 16
"""How many more must be free before new subscribers may come."""
QUEUE_MAX: Final = 48
"""Backlog of a listener that cannot pause."""

_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
# Classic BPF: one instruction, "return 0", that is: keep no byte of the packet.
_DROP_ALL: Final = struct.pack("=HBBI", 0x06, 0, 0, 0)


class Reserve:
    """Descriptors in reserve; see the module. One thread's. ``name`` goes into the log."""

    def __init__(self, name: str, count: int = RESERVE) -> None:
        self._count = count
        self._held: list[int] = []
        self._episode: Episode[str] = Episode(name)
        if not self._fill(count):
            self.run_short("too few for a reserve")

    @property
    def is_short(self) -> bool:
        """Whether there were none left, and they have not come back."""
        return self._episode.state is not None

    @property
    def shortages(self) -> int:
        """Episodes of it up to now."""
        return self._episode.count

    def run_short(self, reason: str) -> None:
        """There was no descriptor left."""
        self._let_go(0)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._episode.fail(
            "short",
            f"out of descriptors ({reason}): no new subscribers until some come back; their "
            f"limit here is {limit} (LimitNOFILE)",
        )

    def regain(self) -> bool:
        """Take the reserve back, with some more free; True once that worked, and new subscribers
        may come. To be called now and then, whether short or not."""
        if not self.is_short:
            self._episode.settle()
            return False
        if not self._fill(self._count + MARGIN):
            return False
        self._let_go(self._count)
        self._episode.end()
        return True

    def close(self) -> None:
        """Let go of them. May be called again."""
        self._let_go(0)

    def _fill(self, count: int) -> bool:
        try:
            while len(self._held) < count:
                self._held.append(os.eventfd(0, os.EFD_CLOEXEC))
        except OSError:
            self._let_go(0)
            return False
        return True

    def _let_go(self, left: int) -> None:
        while len(self._held) > left:
            os.close(self._held.pop())


def shut_out(listener: socket.socket) -> None:
    """Let nobody connect any more; who is in the queue stays there. ``let_in`` ends that."""
    instructions = ctypes.create_string_buffer(_DROP_ALL, len(_DROP_ALL))
    program = struct.pack("@HP", 1, ctypes.addressof(instructions))
    # A host that knows no filters leaves us with a busy thread, no worse.
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def let_in(listener: socket.socket) -> None:
    """Let others connect again."""
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
