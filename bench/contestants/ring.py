"""Our ring: writer and reader in Python, or both in C."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import time
from collections.abc import Iterator

import numpy as np

from bench import native_ends, oneway
from bench.oneway import Latencies, Load, Writing
from bitcoin_sprint.errors import NotRunningError
from bitcoin_sprint.frames import Kind, Level
from bitcoin_sprint.native import ffi, lib
from bitcoin_sprint.ring import Reader, Ring, Writer

_HASH = bytes(32)
_SLOTS = 4096
_ARENA_BYTES = 32 << 20
_START_SECONDS = 20
_CORE_CALLS = (  # in the order of struct core_calls
    "sp_writer_publish",
    "sp_writer_reserve",
    "sp_reservation_advance",
    "sp_reservation_commit",
)
_instances = itertools.count()


def _new_instance() -> str:
    return f"bench-{os.getpid()}-{next(_instances)}"


class PythonRing:
    """``Writer.publish`` and a spinning ``Reader.wait``, or reserve and commit.

    ``committed_bytes``: of a payload that is filled like any other, only so many are committed.
    """

    variant = "spinning"

    def __init__(self, committed_bytes: int | None = None) -> None:
        self.name = "python ring" if committed_bytes is None else f"{committed_bytes} B of it"
        self._instance = _new_instance()
        self._committed_bytes = committed_bytes

    @contextlib.contextmanager
    def writing(self, load: Load) -> Iterator[Writing]:
        """The writer of a ring of its own."""
        with _writer(self._instance) as writer:
            if load.from_commit:
                yield _Committing(load, writer, self._committed_bytes or load.size)
            else:
                yield _Publishing(load, writer)

    @contextlib.contextmanager
    def reading(self, load: Load) -> Iterator[_WholeReading]:
        """A reader that looks at the payload in place."""
        ring = _attach(self._instance)
        reader = ring.reader(wait="spin")
        yield _WholeReading(load, reader)
        reader.close()


class _WholeReading:
    """Believes what it looked at only once the frame says that it was whole."""

    def __init__(self, load: Load, reader: Reader) -> None:
        self._load = load
        self._reader = reader

    def await_probe(self) -> None:
        """Returns once any message was received."""
        self._reader.wait()

    def receive_all(self) -> Latencies:
        """Latencies by message index, -1 for a message that did not come."""
        clock, wait = time.monotonic_ns, self._reader.wait
        look = oneway.touch if self._load.touch else oneway.STAMP.unpack_from
        latencies = [-1] * (self._load.count + 1)
        index, end = -1, self._load.count
        while index < end:
            frame = wait()
            assert frame is not None
            due, index = look(frame)
            if not frame.valid():
                index = -1
            now = clock()
            latencies[index] = now - due
        return np.array(latencies[:end], dtype=np.int64)


class CRing:
    """The compiled core called from C, and a reader out of ``sprint.h``."""

    variant = "spinning"

    def __init__(self) -> None:
        self.name = "C ring"
        self._instance = _new_instance()
        native_ends.share_clock()  # compiled, and the same for both ends: before the fork

    @contextlib.contextmanager
    def writing(self, load: Load) -> Iterator[_CWriting]:
        """The writer of a ring of its own."""
        with _writer(self._instance) as writer:
            yield _CWriting(writer, load)

    @contextlib.contextmanager
    def reading(self, load: Load) -> Iterator[_CReading]:
        """A reader that looks at the payload in place and asks whether it was still whole."""
        _attach(self._instance).close()
        handle = native_ends.library().ends_open(self._instance.encode())
        if not handle:
            raise OSError(f"can't attach to {self._instance}")
        yield _CReading(handle, load)
        native_ends.library().ends_close(handle)


class _CReading:
    def __init__(self, handle: int, load: Load) -> None:
        self._handle = handle
        self._load = load

    def await_probe(self) -> None:
        """Returns once any message was received."""
        self._read(0, np.empty(0, dtype=np.int64))

    def receive_all(self) -> Latencies:
        """Latencies by message index, -1 for a message that did not come."""
        latencies = np.full(self._load.count, -1, dtype=np.int64)
        self._read(self._load.count, latencies)
        return latencies

    def _read(self, end: int, latencies: Latencies) -> None:
        code = native_ends.library().ends_read(
            self._handle, end, self._load.touch, latencies.ctypes.data
        )
        if code != 0:
            raise OSError(f"the reader stopped: {code}")


def _writer(instance: str) -> Writer:
    return Writer.create(instance, "blocks", slot_count=_SLOTS, arena_bytes=_ARENA_BYTES)


def _attach(instance: str) -> Ring:
    """Attaches once the writing process has made the ring."""
    give_up = time.monotonic() + _START_SECONDS
    while True:
        try:
            return Ring.attach(instance, "blocks")
        except NotRunningError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.001)


class _Publishing:
    """``Writer.publish`` on a timetable."""

    def __init__(self, load: Load, writer: Writer) -> None:
        self._load = load
        self._writer = writer

    def send_now(self, index: int) -> None:
        """Sends one message without a due time."""
        self._send(0, index)

    def send_all(self, start_ns: int) -> None:
        """Sends the load's messages by its timetable; as ``PythonWriting``, called directly."""
        clock, pack, publish = time.monotonic_ns, oneway.STAMP.pack_into, self._writer.publish
        kind, level, interval_ns = int(Kind.BLOCK), int(Level.MERKLE), self._load.interval_ns
        payload, due = bytearray(self._load.size), start_ns
        for index in range(self._load.count):
            pack(payload, 0, due, index)
            while clock() < due:
                pass
            publish(kind, payload, hash=_HASH, level=level)
            due += interval_ns

    def _send(self, due_ns: int, index: int) -> None:
        payload = oneway.STAMP.pack(due_ns, index).ljust(self._load.size, b"\0")
        self._writer.publish(Kind.BLOCK, payload, hash=_HASH, level=Level.MERKLE)


class _Committing(_Publishing):
    """Reserve and fill beforehand, ``Reservation.commit`` on a timetable."""

    def __init__(self, load: Load, writer: Writer, committed_bytes: int) -> None:
        super().__init__(load, writer)
        self._committed_bytes = committed_bytes

    def send_all(self, start_ns: int) -> None:
        """Sends the load's messages by its timetable."""
        clock, pack = time.monotonic_ns, oneway.STAMP.pack_into
        kind, level, interval_ns = int(Kind.BLOCK), int(Level.MERKLE), self._load.interval_ns
        payload, due = bytearray(self._load.size), start_ns
        for index in range(self._load.count):
            pack(payload, 0, due, index)
            reservation = self._writer.reserve(len(payload))
            reservation.buffer[:] = payload
            reservation.advance(self._committed_bytes)
            while clock() < due:
                pass
            reservation.commit(kind, hash=_HASH, level=level)
            due += interval_ns


class _CWriting(_Publishing):
    """The compiled core called by a loop in C."""

    def __init__(self, writer: Writer, load: Load) -> None:
        super().__init__(load, writer)
        self._payload = np.zeros(load.size, dtype=np.uint8)
        self._calls = (ctypes.c_void_p * len(_CORE_CALLS))(
            *(int(ffi.cast("uintptr_t", ffi.addressof(lib, name))) for name in _CORE_CALLS)
        )

    def send_all(self, start_ns: int) -> None:
        """Sends the load's messages by its timetable."""
        load = self._load
        writer = int(ffi.cast("uintptr_t", self._writer._c))
        address = self._payload.ctypes.data
        code = native_ends.library().ends_write(
            self._calls, writer, address, load.size, load.count, start_ns, load.interval_ns,
            load.from_commit,
        )  # fmt: skip
        if code < 0:
            raise OSError(f"the writer refused: {code}")
