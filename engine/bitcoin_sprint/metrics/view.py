"""Counters of another process, read out of shared memory without its knowing."""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
import struct
from pathlib import Path
from typing import Final, TypedDict

import msgspec

from bitcoin_sprint.errors import Corrupt, HostError, NotRunningError
from bitcoin_sprint.metrics import layout as lay
from bitcoin_sprint.metrics.histogram import WORD_COUNT, HistogramSnapshot, snapshot_of

_SHM_DIRECTORY: Final = Path("/dev/shm")
_TABLE_ATTEMPTS: Final = 1000
_FLOCK: Final = struct.Struct("hhqqi4x")


class Snapshot(TypedDict):
    """A process's figures at one moment."""

    process: str
    pid: int
    alive: bool
    """Whether the writer's lock is held."""
    started: int
    """When the process created its counters, CLOCK_REALTIME ns."""
    heartbeat: int
    """When it last said that it lives, CLOCK_MONOTONIC ns of this host."""
    labels: dict[str, str]
    counters: dict[str, int]
    histograms: dict[str, HistogramSnapshot]


class CountersView:
    """A read-only mapping of one process's counters. Safe to use while that process writes.

    A process that restarts makes a new segment: a view stays with the old one, whose snapshots
    say ``alive`` False from then on; attach again.
    """

    def __init__(self, name: str, process: str, descriptor: int, mapped: mmap.mmap) -> None:
        self.process: Final = process
        self._name = name
        self._descriptor = descriptor
        self._mapped = mapped
        self._whole = memoryview(mapped)
        self._header = self._whole[: lay.HEADER_BYTES].cast("Q")
        self._layout = lay.read_layout(self._header, len(self._whole), name)

    @classmethod
    def attach(cls, instance: str, process: str) -> CountersView:
        """Map the counters of ``process``.

        Raises NotRunningError when there are none, HostError without permission, Corrupt for a
        segment that is none of ours (or not yet whole).
        """
        name = lay.segment_name(instance, process)
        try:
            # Without waiting: anybody may have left a pipe under this name.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(_SHM_DIRECTORY / name[1:], flags)
        except FileNotFoundError as error:
            raise NotRunningError(f"no counters {name}: {process} does not run") from error
        except OSError as error:
            raise HostError(f"counters {name}: {error}") from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Corrupt(f"{name}: not a regular file")
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes < lay.HEADER_BYTES:
                raise Corrupt(f"{name}: {size_bytes} bytes, too small for counters")
            mapped = mmap.mmap(descriptor, size_bytes, mmap.MAP_SHARED, mmap.PROT_READ)
            return cls(name, process, descriptor, mapped)
        except BaseException:
            os.close(descriptor)
            raise

    @staticmethod
    def processes(instance: str) -> list[str]:
        """Return the names of the processes that have counters in ``instance``, sorted."""
        prefix = lay.segment_name(instance, "")[1:]
        return sorted(path.name[len(prefix) :] for path in _SHM_DIRECTORY.glob(f"{prefix}*"))

    def snapshot(self) -> Snapshot:
        """Return every figure as it stands now."""
        header = self._header
        counters, histograms = self._names()
        values = self._layout.values_offset
        words = self._layout.words_offset
        labels_end = lay.HEADER_BYTES + min(header[lay.WORD_LABELS_LENGTH], lay.LABELS_BYTES)
        return Snapshot(
            process=self.process,
            pid=header[lay.WORD_PID],
            alive=self.writer_alive(),
            started=header[lay.WORD_STARTED_NS],
            heartbeat=header[lay.WORD_HEARTBEAT_NS],
            labels=msgspec.json.decode(
                self._whole[lay.HEADER_BYTES : labels_end], type=dict[str, str]
            ),
            counters={
                name: int.from_bytes(self._whole[values + 8 * index :][:8], "little")
                for name, index in counters
            },
            histograms={
                name: snapshot_of(self._whole[words + 8 * WORD_COUNT * index :][: 8 * WORD_COUNT])
                for name, index in histograms
            },
        )

    def writer_alive(self) -> bool:
        """Return whether the process that writes these counters lives (its lock is held)."""
        query = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(self._descriptor, fcntl.F_OFD_GETLK, query)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        """Unmap. May be called again."""
        self._header.release()
        self._whole.release()
        if not self._mapped.closed:
            self._mapped.close()
            os.close(self._descriptor)

    def _names(self) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        """Return (name, index) of the counters and of the histograms, from one whole table."""
        start, end = self._layout.names_offset, self._layout.values_offset
        for _ in range(_TABLE_ATTEMPTS):
            before = self._header[lay.WORD_TABLE_VERSION]
            table = self._whole[start:end].tobytes()
            if before % 2 == 0 and before == self._header[lay.WORD_TABLE_VERSION]:
                break
        # A writer killed within a change leaves the version odd for good: read what is there.
        counters, histograms = [], []
        for index in range(len(table) // lay.NAME_BYTES):
            entry = table[index * lay.NAME_BYTES : (index + 1) * lay.NAME_BYTES]
            name, kind = lay.unpack_name(entry)
            if kind == lay.TYPE_COUNTER:
                counters.append((name, index))
            elif kind == lay.TYPE_HISTOGRAM:
                histograms.append((name, index - self._layout.counter_capacity))
        return sorted(counters), sorted(histograms)
