"""Counters of another process, read out of shared memory without its knowing.

Read with pread(2), never through a mapping: whoever may write the segment may cut it short, and a
mapping would then end its reader with SIGBUS, where a read is only short. A look at counters is
seldom enough not to miss the mapping. The kernel copies aligned words whole.
"""

from __future__ import annotations

import fcntl
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
    """One process's counters, open for reading. Safe to use while that process writes.

    A process that restarts makes a new segment: a view stays with the old one, whose snapshots
    say ``alive`` False from then on; attach again.
    """

    def __init__(self, name: str, process: str, descriptor: int) -> None:
        self.process: Final = process
        self._name = name
        self._descriptor = descriptor
        self._layout = lay.read_layout(self._header(), os.fstat(descriptor).st_size, name)

    @classmethod
    def attach(cls, instance: str, process: str) -> CountersView:
        """Open the counters of ``process``.

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
            return cls(name, process, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    @staticmethod
    def processes(instance: str) -> list[str]:
        """Return the names of the processes that have counters in ``instance``, sorted."""
        prefix = lay.segment_name(instance, "")[1:]
        return sorted(path.name[len(prefix) :] for path in _SHM_DIRECTORY.glob(f"{prefix}*"))

    def snapshot(self) -> Snapshot:
        """Return every figure as it stands now; Corrupt when somebody else wrote into it."""
        header = self._header()
        labels, table = self._described()
        counters, histograms = _names(table, self._layout.counter_capacity)
        layout = self._layout
        values = self._read(layout.values_offset, layout.counter_capacity * 8).cast("Q")
        words = self._read(layout.words_offset, layout.histogram_capacity * WORD_COUNT * 8)
        histogram_words = words.cast("Q")
        return Snapshot(
            process=self.process,
            pid=header[lay.WORD_PID],
            alive=self.writer_alive(),
            started=header[lay.WORD_STARTED_NS],
            heartbeat=header[lay.WORD_HEARTBEAT_NS],
            labels=labels,
            counters={name: values[index] for name, index in counters},
            histograms={
                name: snapshot_of(histogram_words[WORD_COUNT * index :][:WORD_COUNT])
                for name, index in histograms
            },
        )

    def last_heartbeat(self) -> tuple[int, int]:
        """Return the process's pid, and when it last said that it lives (CLOCK_MONOTONIC ns)."""
        header = self._header()
        return header[lay.WORD_PID], header[lay.WORD_HEARTBEAT_NS]

    def writer_alive(self) -> bool:
        """Return whether the process that writes these counters lives (its lock is held)."""
        query = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(self._descriptor, fcntl.F_OFD_GETLK, query)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        """Let go. May be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self, start: int, length: int) -> memoryview:
        """Return a part of the segment; Corrupt when it does not reach so far (any more)."""
        content = os.pread(self._descriptor, length, start)
        if len(content) < length:
            raise Corrupt(f"{self._name}: cut short: {start + len(content)} bytes")
        return memoryview(content)

    def _header(self) -> memoryview:
        return self._read(0, lay.HEADER_BYTES).cast("Q")

    def _described(self) -> tuple[dict[str, str], memoryview]:
        """Return labels and name table as they stood together, between two changes."""
        for _ in range(_TABLE_ATTEMPTS):
            described = self._read(0, self._layout.values_offset)
            words = described[: lay.HEADER_BYTES].cast("Q")
            version = words[lay.WORD_TABLE_VERSION]
            whole = version % 2 == 0 and version == self._header()[lay.WORD_TABLE_VERSION]
            if whole:
                break
        length = min(words[lay.WORD_LABELS_LENGTH], lay.LABELS_BYTES)
        try:
            encoded = described[lay.HEADER_BYTES :][:length]
            labels = msgspec.json.decode(encoded, type=dict[str, str])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # A writer killed within a change leaves the version odd for good.
            if whole:
                text = f"{self._name}: its labels are no JSON of text: {error}"
                raise Corrupt(text) from None
            labels = {}
        return labels, described[self._layout.names_offset :]


def _names(
    table: memoryview, counter_capacity: int
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Return (name, index) of the counters and of the histograms in a name table."""
    counters, histograms = [], []
    for index in range(len(table) // lay.NAME_BYTES):
        entry = table[index * lay.NAME_BYTES : (index + 1) * lay.NAME_BYTES]
        name, kind = lay.unpack_name(entry)
        if kind == lay.TYPE_COUNTER:
            counters.append((name, index))
        elif kind == lay.TYPE_HISTOGRAM:
            histograms.append((name, index - counter_capacity))
    return sorted(counters), sorted(histograms)
