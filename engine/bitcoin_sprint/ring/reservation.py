"""Receive straight into the ring, then publish without another copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from bitcoin_sprint.errors import Closed, HostError
from bitcoin_sprint.native import Committer, address_of, fail, ffi, lib

if TYPE_CHECKING:
    from bitcoin_sprint.ring.writer import Writer

_REVOKED = 2
_LOST = 3


class Reservation(Committer):
    """Room for one payload that is still arriving. Made by ``Writer.reserve``.

    It lies in the arena until the writer laps it, then in private memory (``revoked``): any call on
    the writer may move it, so take ``buffer`` anew before each write into it. One thread, the
    writer's. Leaving a ``with`` block abandons what was not committed.
    """

    __slots__ = ("_c", "_writer")

    def __init__(self, writer: Writer, c: Any) -> None:
        self._writer = writer
        self._c = c
        self._aim(writer, c, address_of(c))

    @property
    def buffer(self) -> memoryview:
        """What is still free, writable. Good until the next call on the writer or a reservation."""
        self._check()
        c = self._c
        free = c.capacity - c.length
        return memoryview(ffi.buffer(c.bytes + c.length, free))

    @property
    def received(self) -> memoryview:
        """What was received so far, read-only. Good as long as ``buffer``."""
        self._check()
        return memoryview(ffi.buffer(self._c.bytes, self._c.length)).toreadonly()

    @property
    def length(self) -> int:
        """Bytes received so far."""
        return int(self._c.length)

    @property
    def capacity(self) -> int:
        return int(self._c.capacity)

    @property
    def revoked(self) -> bool:
        """Whether it lies in private memory; its commit then costs a copy."""
        return bool(self._c.state >= _REVOKED)

    @property
    def open(self) -> bool:
        """Whether it is neither committed nor abandoned."""
        return bool(self._c.state != 0)

    def advance(self, count: int) -> None:
        """Take the first ``count`` bytes of ``buffer`` as received; the CRC grows with them.

        Raises ValueError past the capacity, HostError when memory ran out at a revocation.
        """
        if count < 0:
            raise ValueError(f"advance by {count}")
        self._check()
        code = lib.sp_reservation_advance(self._c, count)
        if code != 0:
            fail(code, f"{count} bytes received, {self._c.capacity - self._c.length} were free")

    def abandon(self) -> None:
        """Give up. Nothing was published. Again or after a commit: nothing happens."""
        if not self._writer.closed:
            lib.sp_reservation_abandon(self._c)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()

    def _failed(self, code: int) -> NoReturn:
        self._check()
        fail(code, "the reservation was revoked and there was no memory to go on in")

    def _check(self) -> None:
        if self._writer.closed:
            raise Closed("the ring's writer was closed")
        if self._c.state == 0:
            raise Closed("the reservation was committed or abandoned")
        if self._c.state == _LOST:
            raise HostError("the reservation was revoked and there was no memory to go on in")
