"""The one-way harness measures from the intended time and says what was lost or failed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator

import numpy as np
import pytest
from bench.contestants.pyzmq_ipc import PyzmqIpc
from bench.contestants.queues import MultiprocessingQueue
from bench.cores import two_cores
from bench.oneway import STAMP, Contestant, Load, PythonReading, PythonWriting, measure

_LOAD = Load(size=80, count=200, interval_ns=200_000)


class _Pipe:
    """A contestant for the harness's own tests."""

    name = "pipe"

    def __init__(self) -> None:
        ends = multiprocessing.get_context("fork").Pipe(duplex=False)
        self.reader_end, self.writer_end = ends

    @contextlib.contextmanager
    def writing(self, load: Load) -> Iterator[PythonWriting]:
        yield PythonWriting(load, self.send)

    @contextlib.contextmanager
    def reading(self, load: Load) -> Iterator[PythonReading]:
        yield PythonReading(load, self.reader_end.recv_bytes)

    def send(self, payload: bytearray) -> None:
        self.writer_end.send_bytes(payload)


class _LosingPipe(_Pipe):
    """Drops message 150."""

    def send(self, payload: bytearray) -> None:
        if STAMP.unpack_from(payload)[1] != 150:
            super().send(payload)


class _StallingPipe(_Pipe):
    """Is blocked for 20 ms in message 100: the 100 that come due meanwhile are late too."""

    def send(self, payload: bytearray) -> None:
        if STAMP.unpack_from(payload)[1] == 100:
            _busy_ns(20_000_000)
        super().send(payload)


class _FailingPipe(_Pipe):
    def send(self, _payload: bytearray) -> None:
        os._exit(3)


def _busy_ns(span: int) -> None:
    until = time.monotonic_ns() + span
    while time.monotonic_ns() < until:
        pass


@pytest.mark.parametrize(
    "contestant",
    [PyzmqIpc(spin=True), PyzmqIpc(spin=False), MultiprocessingQueue()],
    ids=lambda contestant: f"{contestant.name} {contestant.variant}",
)
@pytest.mark.parametrize("size", [80, 1 << 17])
def test_each_message_is_measured(contestant: Contestant, size: int) -> None:
    load = Load(size, count=60, interval_ns=2_000_000, from_commit=True, touch=True)
    sample = measure(contestant, load, two_cores())
    assert sample.lost == 0
    assert len(sample.latencies_ns) == 57  # less the warm-up
    assert np.all(sample.latencies_ns > 0)


def test_a_lost_message_is_counted_and_not_measured() -> None:
    sample = measure(_LosingPipe(), _LOAD, two_cores())
    assert sample.lost == 1
    assert len(sample.latencies_ns) == 189


def test_a_stall_counts_for_every_message_that_it_delays() -> None:
    sample = measure(_StallingPipe(), _LOAD, two_cores())
    assert np.count_nonzero(sample.latencies_ns > 2_000_000) >= 80


def test_a_writer_that_dies_is_an_error_at_once() -> None:
    with pytest.raises(RuntimeError, match="pipe: one of its processes failed"):
        measure(_FailingPipe(), _LOAD, two_cores())
