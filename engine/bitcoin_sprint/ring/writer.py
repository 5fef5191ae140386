"""The one writer of a ring: create or take over a segment, publish frames, reserve room for them.

A writer belongs to one thread. It waits for nobody. The process that holds it may fork: the child
lets go of its copies, so that the lock lives exactly as long as the parent.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import weakref
from pathlib import Path
from typing import Any, NoReturn

from bitcoin_sprint.errors import Closed, HostError
from bitcoin_sprint.native import Publisher, address_of, fail, ffi, lib, text_of
from bitcoin_sprint.ring import layout, segment
from bitcoin_sprint.ring.reservation import Reservation
from bitcoin_sprint.ring.sizing import RingOptions, rungs
from bitcoin_sprint.ring.wake import Wake

_log = logging.getLogger(__name__)
_writers: weakref.WeakSet[Writer] = weakref.WeakSet()


class Writer(Publisher):
    """Publishes to one ring of one instance. Made by ``Writer.create``; close it when done.

    ``publish`` is ``Publisher``'s.
    """

    def __init__(self, path: Path, instance: str, name: str, network: str) -> None:
        """Not for callers: ``create`` does it."""
        self._path, self._instance, self._name, self._network = path, instance, name, network
        self._c: Any = ffi.new("sp_writer *")
        self._base: Any = ffi.NULL
        self._mapped_bytes = 0
        self._wake: Wake | None = None
        self._fd = -1

    @classmethod
    def create(
        cls,
        instance: str,
        name: str,
        *,
        slot_count: int,
        arena_bytes: int,
        network: str = "main",
        mode: int = 0o640,
        group: str | None = None,
        directory: Path | None = None,
    ) -> Writer:
        """Create ring ``name`` ("blocks" or "tx") of ``instance``, or take over a dead writer's.

        ``slot_count`` is rounded up to a power of two, ``arena_bytes`` to whole pages. A segment
        that doesn't fit what is asked for (sizes, network, version, damage) is given up: its
        readers are told, and a fresh one takes its place under a new session. Where memory is short
        the sizes go down by halves, with a warning (``sizing.plan`` does it for both rings
        together). ``mode`` and ``group`` say who may read; ``directory`` is a hugetlbfs mount, None
        POSIX shared memory.

        Raises WriterActive while another process writes this ring; HostError when the host refuses
        memory or access; ValueError for a size or name out of its bound.
        """
        path = layout.segment_path(instance, name, directory)
        ladder = list(rungs(name, RingOptions(slot_count, arena_bytes)))
        self = cls(path, instance, name, network)
        self._fd = segment.open_locked(path)
        fresh = True
        try:
            fresh = not self._take_over(ladder)
            # Before there is anything in it: readers that may not look yet would take it for
            # another's, not for unfinished.
            segment.set_access(self._fd, path, mode, group)
            if fresh:
                self._make(ladder)
            self._wake = Wake(instance, mode, group)
            self._show_wake(self._wake)
        except BaseException:
            self._release(unlink=fresh)
            raise
        self._aim(self._c, address_of(self._c))
        _writers.add(self)
        return self

    @property
    def closed(self) -> bool:
        return self._fd < 0

    @property
    def session(self) -> int:
        """Random number of this segment; frames are identified by (session, sequence)."""
        return int(self._header().session)

    @property
    def epoch(self) -> int:
        """1 for a fresh segment, one more with every takeover."""
        return int(self._header().epoch)

    @property
    def head(self) -> int:
        """Sequence of the newest frame, 0 before the first."""
        self._check()
        return int(self._c.next) - 1

    @property
    def slot_count(self) -> int:
        return int(self._header().slot_count)

    @property
    def arena_bytes(self) -> int:
        return int(self._header().arena_bytes)

    @property
    def revocations(self) -> int:
        """How many reservations had to leave the arena because the writer lapped them."""
        return int(self._c.revocations)

    def reserve(self, capacity: int) -> Reservation:
        """Room for a payload of at most ``capacity`` bytes that is still arriving.

        It lies in the arena, or in private memory while open ones take a quarter of it. Raises
        RingError for more than half the arena or more than 256 open ones.
        """
        self._check()
        if capacity < 1:
            raise ValueError(f"a reservation of {capacity} bytes")
        reservation = ffi.new("sp_reservation *")
        code = lib.sp_writer_reserve(self._c, capacity, reservation)
        if code != 0:
            fail(code, text_of(self._c.detail))
        # The writer's table points at it: forgotten without commit or abandon, it leaves the table.
        return Reservation(self, ffi.gc(reservation, lib.sp_reservation_abandon))

    def set_source(self, index: int, name: str) -> None:
        """Name entry ``index`` (0 to 63) of the table that readers look sources up in. Names of
        more than 59 bytes are cut."""
        self._check()
        text = name.encode()[: layout.SOURCE_NAME_BYTES_MAX].decode(errors="ignore").encode()
        if not 0 <= index < layout.SOURCES_MAX or lib.sp_writer_set_source(self._c, index, text):
            raise ValueError(f"source {index}: 0 to {layout.SOURCES_MAX - 1}")

    def heartbeat(self) -> None:
        """Leave a sign of life, and mend the wake object if a reader damaged it. Call it now and
        then."""
        self._check()
        lib.sp_writer_heartbeat(self._c)
        if self._wake is not None and not self._wake.intact():
            _log.warning("%s: the wake object was damaged by a reader; mended", self._path)
            lib.sp_writer_set_wake(self._c, ffi.NULL, 0, layout.wake_offset(self._name))
            self._wake.mend()
            self._show_wake(self._wake)

    def close(self, unlink: bool = True) -> None:
        """Stop writing. With ``unlink`` the ring ends: readers are told and the object goes away;
        without, it stays as it is for a successor to take over."""
        if self._fd >= 0:
            self._release(unlink)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Forgotten, it would hold the lock as long as the process lives. Left for a successor.
        with contextlib.suppress(AttributeError):
            self.close(unlink=False)

    def _failed(self, code: int) -> NoReturn:
        self._check()
        fail(code, text_of(self._c.detail))

    def _check(self) -> None:
        if self._fd < 0:
            raise Closed("the ring's writer was closed")

    def _header(self) -> Any:
        self._check()
        return self._c.header

    def _show_wake(self, wake: Wake) -> None:
        lib.sp_writer_set_wake(self._c, wake.page, wake.inode, layout.wake_offset(self._name))

    def _take_over(self, ladder: list[RingOptions]) -> bool:
        """Go on with what is in the file; False when it is new or was given up for a fresh one."""
        size = os.fstat(self._fd).st_size
        if size == 0 and segment.other_owner(self._fd) is None:
            return False
        refusal = f"it has {size} bytes"
        if (owner := segment.other_owner(self._fd)) is not None:
            refusal = f"it belongs to {owner}"  # who may truncate it or write to it at any time
        elif segment.has_holes(self._fd):
            refusal += ", not all of them in memory"
        elif size >= layout.SLOTS_OFFSET:
            self._map(size)
            code = self._fits(ladder)
            if code == "":
                return True
            refusal = code
        _log.warning("%s: given up for a fresh segment: %s", self._path, refusal)
        self._give_up()
        return False

    def _fits(self, ladder: list[RingOptions]) -> str:
        """Take the mapped segment over; what is wrong with it otherwise, empty when it is ours."""
        header = ffi.cast("sp_header *", self._base)
        detail = ffi.new("char[]", 256)
        if lib.sp_check_header(header, self._mapped_bytes, detail) != 0:
            return text_of(detail)
        found = RingOptions(int(header.slot_count), int(header.arena_bytes))
        if found not in ladder:
            return f"it has {found.slot_count} slots and {found.arena_bytes} bytes of arena"
        if text_of(header.network) != self._network:
            return f"it carries network {text_of(header.network)!r}, not {self._network!r}"
        if lib.sp_writer_takeover(self._c, self._base, self._mapped_bytes) != 0:
            return text_of(self._c.detail)
        _log.info("%s: taken over after frame %d, epoch %d", self._path, self.head, self.epoch)
        return ""

    def _give_up(self) -> None:
        """Tell the readers of the file's ring, if it is one, and put an empty file in its place."""
        old, self._fd = self._fd, -1
        try:
            if self._base != ffi.NULL:
                header = ffi.cast("sp_header *", self._base)
                if lib.sp_check_header(header, self._mapped_bytes, ffi.new("char[]", 256)) == 0:
                    lib.sp_segment_close(header)
                self._unmap()
            self._fd = segment.replace(old, self._path)
        finally:
            os.close(old)

    def _make(self, ladder: list[RingOptions]) -> None:
        options = self._reserve_memory(ladder)
        code = lib.sp_writer_format(
            self._c, self._base, self._mapped_bytes, options.slot_count, options.arena_bytes,
            self._instance.encode(), self._network.encode(), self._name.encode(),
            secrets.randbits(64) or 1,
        )  # fmt: skip
        if code != 0:
            fail(code, f"{self._path}: {text_of(self._c.detail)}")

    def _reserve_memory(self, ladder: list[RingOptions]) -> RingOptions:
        for step, options in enumerate(ladder):
            try:
                size = segment.reserve_memory(self._fd, self._path, options.segment_bytes)
            except HostError:
                if options is ladder[-1]:
                    raise
                continue
            if step > 0:
                _log.warning(
                    "%s: shared memory is short, sized down to %d slots and %.1f MiB",
                    self._path, options.slot_count, options.arena_bytes / 2**20,
                )  # fmt: skip
            self._map(size)
            return options
        raise AssertionError("a ladder has at least one rung")

    def _map(self, size: int) -> None:
        base = lib.sp_map_shared(self._fd, size, 1)
        if base == ffi.NULL:
            raise HostError(f"{self._path}: cannot be mapped: {os.strerror(ffi.errno)}")
        self._base, self._mapped_bytes = base, size

    def _unmap(self) -> None:
        lib.sp_unmap(self._base, self._mapped_bytes)
        self._base, self._mapped_bytes = ffi.NULL, 0

    def _release(self, unlink: bool) -> None:
        """Unlink before the lock goes, so that no successor finds a closed segment by its name."""
        _writers.discard(self)
        fd, self._fd = self._fd, -1
        self._aim(None, 0)
        if self._base != ffi.NULL:
            lib.sp_writer_drop(self._c)
            if unlink and self._c.header != ffi.NULL:
                lib.sp_segment_close(self._c.header)
            self._unmap()
        if fd >= 0:
            if unlink:
                segment.unlink(fd, self._path)
            segment.set_lock(fd, fcntl.F_UNLCK)
            os.close(fd)
        if self._wake is not None:
            self._wake.close(unlink)
            self._wake = None

    def _close_in_child(self) -> None:
        self._aim(None, 0)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._wake is not None:
            self._wake.close_in_child()
            self._wake = None


def _let_go_in_child() -> None:
    for writer in list(_writers):
        writer._close_in_child()


os.register_at_fork(after_in_child=_let_go_in_child)
