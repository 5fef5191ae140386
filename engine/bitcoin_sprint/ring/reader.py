"""Read a ring: poll, wait, iterate, await. Overruns are counted, never raised."""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from bitcoin_sprint.errors import Closed
from bitcoin_sprint.native import Cursor, address_of, fail, ffi, lib, text_of
from bitcoin_sprint.ring.frame import Frame

if TYPE_CHECKING:
    from bitcoin_sprint.ring.attached import Ring

_told: weakref.WeakSet[Reader] = weakref.WeakSet()
"""Readers that have an eventfd."""


class Reader(Cursor[Frame]):
    """A place in a ring. Made by ``Ring.reader``; belongs to one thread at a time.

    ``frames_lost`` plus the frames delivered is always what was published since its start.
    ``poll`` and ``wait`` are ``Cursor``'s.
    """

    __slots__ = ("__weakref__", "_c", "_closed", "_event_fd", "_owner", "_ring", "_sleeper")

    def __init__(self, ring: Ring, first: int, resume: int, wait_mode: int) -> None:
        self._ring = ring
        handle = ring.handle()
        self._c: Any = ffi.gc(ffi.new("sp_reader *"), lib.sp_reader_close)
        lib.sp_reader_init(self._c, handle, first, resume, wait_mode)
        self._owner = handle  # the C reader points into it
        self._event_fd = -1
        self._closed = False
        self._sleeper: asyncio.Future[None] | None = None
        self._aim(ring, self._c, address_of(self._c), Frame)

    @property
    def sequence(self) -> int:
        """Number of the frame that comes next, if it is not overwritten first."""
        return int(self._c.next)

    @property
    def frames_lost(self) -> int:
        """Frames overwritten before this reader came to them."""
        return int(self._c.frames_lost)

    @property
    def slot_laps(self) -> int:
        """Overruns found in the slots: too many frames."""
        return int(self._c.slot_laps)

    @property
    def arena_laps(self) -> int:
        """Overruns found in the arena: too many bytes."""
        return int(self._c.arena_laps)

    @property
    def overruns(self) -> int:
        """Times the writer overtook this reader."""
        return self.slot_laps + self.arena_laps

    @property
    def ring(self) -> Ring:
        return self._ring

    def __iter__(self) -> Iterator[Frame]:
        """Frames as they come, until the ring ends."""
        with contextlib.suppress(Closed):
            while True:
                frame = self.wait()
                if frame is not None:
                    yield frame

    def fileno(self) -> int:
        """An eventfd that becomes readable when frames were published: for select, epoll, an event
        loop. Read 8 bytes of it, then ``poll`` until None. One native thread a process serves
        all."""
        if self._event_fd < 0:
            self._check()
            event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            code = lib.sp_notifier_add(self._owner, event_fd)
            if code != 0:
                os.close(event_fd)
                fail(
                    code, f"no notifier: {os.strerror(ffi.errno)}, or 120 readers have one already"
                )
            self._event_fd = event_fd
            _told.add(self)
        return self._event_fd

    async def next(self) -> Frame:
        """The next frame, for asyncio. One task at a time. Raises as ``poll``."""
        while True:
            frame = self.poll()
            if frame is not None:
                return frame
            await self._sleep()

    async def __aiter__(self) -> AsyncIterator[Frame]:
        with contextlib.suppress(Closed):
            while True:
                yield await self.next()

    async def _sleep(self) -> None:
        """Until frames may have come."""
        if self._sleeper is not None:
            raise RuntimeError("another task awaits this reader")
        event_fd = self.fileno()
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(event_fd)
            return  # it was up: frames may have come since the last look
        loop = asyncio.get_running_loop()
        self._sleeper = loop.create_future()
        loop.add_reader(event_fd, _awake, self._sleeper)
        try:
            await self._sleeper
        finally:
            if not self._closed:
                loop.remove_reader(event_fd)
            self._sleeper = None

    def close(self) -> None:
        """Let go. Frames that were delivered stay usable."""
        if self._closed:
            return
        self._closed = True
        self._stop()
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.get_loop().remove_reader(self._event_fd)
            self._sleeper.set_exception(Closed("this reader was closed"))
        if self._event_fd >= 0:
            lib.sp_notifier_remove(self._event_fd)
            os.close(self._event_fd)
            self._event_fd = -1
        # The C reader goes with its last user: another thread may be waiting on it.

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self.close()

    def _forget_event_fd(self) -> None:
        """After fork: the eventfd is the parent's as well, who would miss what is read here."""
        os.close(self._event_fd)
        self._event_fd = -1

    def _check(self) -> None:
        if self._closed:
            raise Closed("this reader was closed")

    def _failed(self, code: int) -> NoReturn:
        self._check()
        fail(code, text_of(self._c.detail) or "the ring's writer ended it")


def _awake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


def _forget_event_fds_in_child() -> None:
    for reader in list(_told):
        if reader._event_fd >= 0:
            reader._forget_event_fd()
    _told.clear()


os.register_at_fork(after_in_child=_forget_event_fds_in_child)
