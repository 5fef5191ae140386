"""A ring of another process, mapped read-only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from bitcoin_sprint.errors import Closed
from bitcoin_sprint.native import fail, ffi, lib, text_of
from bitcoin_sprint.ring import layout
from bitcoin_sprint.ring.reader import Reader

Start = Literal["newest", "oldest"] | int
Resume = Literal["oldest", "newest"]
WaitMode = Literal["spin", "spin_then_yield", "block"]

_RESUME = {"oldest": 0, "newest": 1}
_WAIT = {"spin": 0, "spin_then_yield": 1, "block": 2}


class Ring:
    """A ring that can be read. Made by ``Ring.attach``; safe to share between threads, each with a
    reader of its own. The mapping lives as long as a frame or payload of it is in use."""

    def __init__(self, c: Any, path: Path) -> None:
        self._path = path
        self._c: Any = ffi.gc(c, lib.sp_detach)
        self.mapped = self._c
        """The C ring, for frames: good as long as this object is."""
        self.session = int(c.session)
        """Random number of the segment; a fresh segment has another."""
        self.arena_bytes = int(c.arena_bytes)
        # The view holds the buffer, the buffer the pointer, the pointer the mapping.
        arena = ffi.gc(ffi.cast("uint8_t *", c.arena), _holding(self.mapped))
        self.arena = memoryview(ffi.buffer(arena, self.arena_bytes)).toreadonly()
        """The whole arena, read-only."""

    @classmethod
    def attach(cls, instance: str, name: str, *, directory: Path | None = None) -> Ring:
        """Attach to ring ``name`` of ``instance``, running or left behind by a writer that died.

        Raises NotRunningError when there is none, HostError when access is refused, Corrupt when
        what is there is no ring of this version; the text says what was found.
        """
        path = layout.segment_path(instance, name, directory)
        c = ffi.new("sp_ring *")
        where = ffi.NULL if directory is None else str(directory).encode()
        code = lib.sp_attach(c, where, instance.encode(), name.encode())
        if code != 0:
            fail(code, f"{path}: {text_of(c.detail)}")
        return cls(c, path)

    def reader(
        self, start: Start = "newest", resume: Resume = "oldest", wait: WaitMode = "block"
    ) -> Reader:
        """A reader of this ring.

        ``start``: "newest" delivers what is published from now on, "oldest" all that is still there
        first, a number that frame first (what of it is gone counts as lost). ``resume``: where to
        go on after an overrun, at the oldest whole frame or the newest. ``wait``: how to wait;
        "spin" takes a whole core, "block" sleeps in the kernel. Raises ValueError for a number past
        the next frame.
        """
        if isinstance(start, int):
            first = start
            if not 1 <= first <= self.head + 1:
                raise ValueError(f"start {first}: 1 to {self.head + 1}, the next frame")
        elif start == "oldest":
            first = int(lib.sp_oldest(self.handle(), 1))
        elif start == "newest":
            first = self.head + 1
        else:
            raise ValueError(f'start {start!r}: "newest", "oldest" or a sequence number')
        if resume not in _RESUME:
            raise ValueError(f"resume {resume!r}: one of {', '.join(_RESUME)}")
        if wait not in _WAIT:
            raise ValueError(f"wait {wait!r}: one of {', '.join(_WAIT)}")
        return Reader(self, first, _RESUME[resume], _WAIT[wait])

    def handle(self) -> Any:
        """The C ring, for this package."""
        if self._c is None:
            raise Closed(f"{self._path}: this handle was closed")
        return self._c

    def writer_alive(self) -> bool:
        """Whether a living process holds the writer's lock. False also while it is being
        restarted."""
        return bool(lib.sp_writer_alive(self.handle()) == 1)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come: the writer gave this segment up, or it has neither a name
        nor a writer any more. A fresh one, if any, has to be attached anew."""
        handle = self.handle()
        return bool(lib.sp_ended(handle) or lib.sp_orphaned(handle))

    @property
    def epoch(self) -> int:
        """One more with every writer that took the ring over."""
        return int(lib.sp_ring_epoch(self.handle()))

    @property
    def head(self) -> int:
        """Sequence of the newest frame, 0 before the first."""
        return int(lib.sp_head(self.handle()))

    @property
    def oldest(self) -> int:
        """Sequence of the oldest whole frame, the next one's when there is none. Scans."""
        return int(lib.sp_oldest(self.handle(), 1))

    @property
    def network(self) -> str:
        return text_of(self.handle().header.network)

    @property
    def slot_count(self) -> int:
        return int(self.handle().header.slot_count)

    @property
    def writer_pid(self) -> int:
        """Process id that the writer left; it may be long gone, see ``writer_alive``."""
        return int(self.handle().header.writer_pid)

    @property
    def heartbeat_ns(self) -> int:
        """CLOCK_MONOTONIC of the writer's last sign of life. For people; decides nothing."""
        return int(self.handle().header.heartbeat_ns)

    def source_name(self, index: int) -> str | None:
        """Name of a frame's source, None when it has none."""
        name = ffi.new("char[]", lib.SP_SOURCE_NAME_BYTES)
        found = lib.sp_source_name(self.handle(), index, name)
        return text_of(name) if found == 1 else None

    def close(self) -> None:
        """Let go of the ring. Payloads still in use stay readable; nothing else of it does."""
        self._c = None

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _holding(owner: Any) -> Any:
    """A destructor that does nothing but keep ``owner`` alive until then."""

    def release(_: object, held: Any = owner) -> None:
        del held

    return release
