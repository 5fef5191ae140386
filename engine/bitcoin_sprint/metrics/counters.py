"""Counters of one process in shared memory: the writing side.

Single writer: one thread of one process owns a segment and all counters in it. Adding is a
Python integer and one aligned 8-byte store (about 60 ns); nothing is ever locked or allocated.
A segment left behind by a dead process is recognised by its write lock being free, and replaced.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Final

import posix_ipc

from bitcoin_sprint.errors import HostError, WriterActive
from bitcoin_sprint.metrics import layout as lay
from bitcoin_sprint.metrics.histogram import WORD_COUNT, Histogram

_SPARE_COUNTERS: Final = 192
_SPARE_HISTOGRAMS: Final = 8
_REPLACE_ATTEMPTS: Final = 8
# struct flock: type, whence, start, length, pid (0, as open-file-description locks require).
_WRITE_LOCK: Final = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_WORD_MASK: Final = (1 << 64) - 1

_process_labels: dict[str, str] = {}
_open_segments: weakref.WeakSet[Counters] = weakref.WeakSet()


def label_process(name: str, text: str) -> None:
    """Set a label of this process: of every segment that it has, and that it will have.

    For what is known of a process before and beside the room that runs in it.
    """
    _process_labels[name] = text
    for counters in _open_segments:
        counters.label(name, text)


class Counter:
    """One figure that only its process changes: a count that grows, or a level that is set."""

    __slots__ = ("_index", "_value", "_values")

    def __init__(self, values: memoryview, index: int) -> None:
        self._values = values
        self._index = index
        self._value = 0
        values[index] = 0

    def add(self, amount: int = 1) -> None:
        """Count ``amount`` more."""
        self._value = value = (self._value + amount) & _WORD_MASK
        self._values[self._index] = value

    def set(self, value: int) -> None:
        """Set a level, 0 to 2**64 - 1."""
        self._values[self._index] = value
        self._value = value

    @property
    def value(self) -> int:
        """What it stands at."""
        return self._value


class Counters:
    """The counters segment of this process; see ``create``. Not safe across threads."""

    def __init__(
        self, name: str, descriptor: int, mapped: mmap.mmap, layout: lay.Layout, process: str
    ) -> None:
        self.name: Final = name
        self.process: Final = process
        self._descriptor = descriptor
        self._mapped = mapped
        self._layout = layout
        whole = memoryview(mapped)
        self._whole = whole
        self._header = whole[: lay.HEADER_BYTES].cast("Q")
        values = layout.values_offset
        self._values = whole[values : layout.words_offset].cast("Q")
        # A counter refused for want of room still counts for its process, but no reader sees it.
        self._hidden = memoryview(bytearray(8)).cast("Q")
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._counter_indexes: dict[str, int] = {}
        self._free = list(range(layout.counter_capacity - 1, -1, -1))
        self._labels: dict[str, str] = {}
        self._closed = False
        self._refused = self.counter("metrics.names_refused")

    @classmethod
    def create(
        cls,
        instance: str,
        process: str,
        counters: Sequence[str],
        histograms: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        *,
        mode: int = 0o640,
        group_id: int = -1,
        spare_counters: int = _SPARE_COUNTERS,
    ) -> Counters:
        """Create ``/sprint.<instance>.counters.<process>``, replacing what a dead process left.

        ``counters`` and ``histograms`` name what starts at zero; ``spare_counters`` and 8 more may
        be added while it runs. ``labels`` describe the process (tier, network), beside those of
        ``label_process``. Raises WriterActive when a living process holds the segment, HostError
        when the host has no room or refuses, ValueError for a name that is too long.
        """
        layout = lay.Layout(len(counters) + 1 + spare_counters, len(histograms) + _SPARE_HISTOGRAMS)
        described = {**_process_labels, **(labels or {})}
        encoded_labels = lay.pack_labels(described)
        for name in (*counters, *histograms):
            lay.check_name(name)
        segment = lay.segment_name(instance, process)
        descriptor = _create_locked(segment, layout.size_bytes, mode, group_id)
        mapped = mmap.mmap(descriptor, layout.size_bytes, mmap.MAP_SHARED)
        self = cls(segment, descriptor, mapped, layout, process)
        self._labels = described
        self._write_labels(encoded_labels)
        header = self._header
        header[lay.WORD_VERSION] = lay.VERSION
        header[lay.WORD_COUNTER_CAPACITY] = layout.counter_capacity
        header[lay.WORD_HISTOGRAM_CAPACITY] = layout.histogram_capacity
        header[lay.WORD_PID] = os.getpid()
        header[lay.WORD_STARTED_NS] = time.time_ns()
        self.heartbeat()
        for name in counters:
            self.counter(name)
        for name in histograms:
            self.histogram(name)
        header[lay.WORD_MAGIC] = lay.MAGIC
        _open_segments.add(self)
        return self

    def __getitem__(self, name: str) -> Counter:
        """Return the counter ``name``; KeyError when there is none."""
        return self._counters[name]

    def counter(self, name: str) -> Counter:
        """Return the counter ``name``, adding it when new.

        With no room left the counter works but stays private to this process, and
        ``metrics.names_refused`` counts it: a figure must never stop the stream.
        """
        found = self._counters.get(name)
        if found is not None:
            return found
        entry = lay.pack_name(name, lay.TYPE_COUNTER)
        if not self._free:
            self._refused.add()
            return Counter(self._hidden, 0)
        index = self._free.pop()
        counter = Counter(self._values, index)
        self._write_entry(index, entry)
        self._counters[name] = counter
        self._counter_indexes[name] = index
        return counter

    def remove(self, name: str) -> None:
        """Take the counter ``name`` out again (a subscriber left); nothing when there is none.

        Its Counter object must not be used afterwards.
        """
        if self._counters.pop(name, None) is None:
            return
        index = self._counter_indexes.pop(name)
        self._write_entry(index, bytes(lay.NAME_BYTES))
        self._free.append(index)

    def histogram(self, name: str) -> Histogram:
        """Return the histogram ``name``, adding it when new (private when there is no room)."""
        found = self._histograms.get(name)
        if found is not None:
            return found
        entry = lay.pack_name(name, lay.TYPE_HISTOGRAM)
        position = len(self._histograms)
        if position >= self._layout.histogram_capacity:
            self._refused.add()
            return Histogram()
        start = self._layout.words_offset + position * WORD_COUNT * 8
        histogram = Histogram(self._whole[start : start + WORD_COUNT * 8].cast("Q"))
        self._write_entry(self._layout.counter_capacity + position, entry)
        self._histograms[name] = histogram
        return histogram

    def label(self, name: str, text: str) -> None:
        """Set a label, new or not. ValueError when there is no room for it; then none changes."""
        described = {**self._labels, name: text}
        encoded = lay.pack_labels(described)
        self._labels = described
        self._write_labels(encoded)

    def heartbeat(self) -> None:
        """Say that this process lives; to be called about once a second."""
        self._header[lay.WORD_HEARTBEAT_NS] = time.monotonic_ns()

    def close(self, unlink: bool = True) -> None:
        """Unmap, let go of the lock and remove the segment's name. May be called again."""
        if self._closed:
            return
        self._closed = True
        _open_segments.discard(self)
        if unlink:
            _unlink(self.name)
        for histogram in self._histograms.values():
            histogram.release()
        for view in (self._header, self._values, self._whole):
            view.release()
        self._mapped.close()
        os.close(self._descriptor)

    def _write_labels(self, encoded: bytes) -> None:
        self._header[lay.WORD_TABLE_VERSION] += 1  # odd: readers wait
        self._whole[lay.HEADER_BYTES : lay.HEADER_BYTES + len(encoded)] = encoded
        self._header[lay.WORD_LABELS_LENGTH] = len(encoded)
        self._header[lay.WORD_TABLE_VERSION] += 1

    def _write_entry(self, index: int, entry: bytes) -> None:
        start = self._layout.names_offset + index * lay.NAME_BYTES
        self._header[lay.WORD_TABLE_VERSION] += 1  # odd: readers wait
        self._whole[start : start + lay.NAME_BYTES] = entry
        self._header[lay.WORD_TABLE_VERSION] += 1


def _create_locked(name: str, size_bytes: int, mode: int, group_id: int) -> int:
    """Create the segment, locked and with its memory allocated; return its descriptor."""
    for _ in range(_REPLACE_ATTEMPTS):
        try:
            shared = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600)
        except posix_ipc.ExistentialError:
            _unlink_stale(name)
            continue
        except (OSError, posix_ipc.PermissionsError) as error:
            raise HostError(f"/dev/shm: cannot create {name}: {error}") from error
        descriptor = int(shared.fd)
        # Before it was locked another process may have taken it for a dead one's and removed it.
        if not _lock(descriptor) or not _is_named(descriptor, name):
            os.close(descriptor)
            continue
        try:
            os.posix_fallocate(descriptor, 0, size_bytes)
            os.fchmod(descriptor, mode)
            if group_id >= 0:
                os.fchown(descriptor, -1, group_id)
        except OSError as error:
            _unlink(name)
            os.close(descriptor)
            raise HostError(
                f"/dev/shm: cannot have {size_bytes} bytes for {name}: {error.strerror}; make it "
                "bigger (docker run --shm-size=512m)"
            ) from error
        return descriptor
    raise WriterActive(f"{name}: other processes keep creating it")


def _unlink_stale(name: str) -> None:
    """Remove a segment whose writer is dead; WriterActive when it lives."""
    try:
        shared = posix_ipc.SharedMemory(name, 0, read_only=False)
    except posix_ipc.ExistentialError:
        return
    except (OSError, posix_ipc.PermissionsError) as error:
        raise HostError(
            f"/dev/shm{name} belongs to another user: {error}; remove it, or choose another "
            "instance"
        ) from error
    try:
        if not _lock(shared.fd):
            raise WriterActive(f"{name}: another living process writes it")
        if _is_named(shared.fd, name):
            _unlink(name)
    finally:
        shared.close_fd()


def _lock(descriptor: int) -> bool:
    """Take the segment's write lock, which lives as long as the open file; False if it is held."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _WRITE_LOCK)
    except BlockingIOError:
        return False
    return True


def _is_named(descriptor: int, name: str) -> bool:
    """Return whether ``name`` still leads to the segment that ``descriptor`` has open."""
    try:
        named = os.stat(f"/dev/shm{name}")  # noqa: PTH116
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(descriptor))


def _unlink(name: str) -> None:
    try:
        posix_ipc.unlink_shared_memory(name)
    except posix_ipc.ExistentialError:
        return
