"""One-way latency between two pinned processes, open-loop.

The writer has a timetable: message ``i`` is due at ``start + i * interval`` whether or not earlier
ones are through, and carries that *intended* time (CLOCK_MONOTONIC ns), so that a stall counts for
every message it delays. Latency is the reader's clock, after it has looked into the payload, less
the intended time. Contestants take turns, round by round, so that whatever else the machine does
falls on all of them.
"""

from __future__ import annotations

import contextlib
import gc
import math
import multiprocessing
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.cores import pin

Latencies = NDArray[np.int64]
Payload = memoryview | bytes
STAMP = struct.Struct("<Qq")  # intended time, index; index -1 is a probe, index count the end
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99)
_WARM_UP_PART = 20  # the first twentieth of a round is not counted
_STALLED_SECONDS = 20.0
_LEAD_NS = 20_000_000


@dataclass(frozen=True)
class Load:
    """What a round sends: ``count`` messages of ``size`` bytes, one every ``interval_ns``.

    ``from_commit``: the payload is already in place when its time comes, and only its release is
    timed. ``touch``: the reader reads all of it, not only its stamp.
    """

    size: int
    count: int
    interval_ns: int
    from_commit: bool = False
    touch: bool = False


class Writing(Protocol):
    """The writing end, open."""

    def send_now(self, index: int) -> None:
        """Sends one message without a due time: a probe (index -1) or the end (index count)."""
        ...

    def send_all(self, start_ns: int) -> None:
        """Sends the load's messages by its timetable, whose first is due at ``start_ns``."""
        ...


class Reading(Protocol):
    """The reading end, open."""

    def await_probe(self) -> None:
        """Returns once any message was received."""
        ...

    def receive_all(self) -> Latencies:
        """Latencies by message index, -1 for a message that did not come, up to the end."""
        ...


class Contestant(Protocol):
    """One way of getting messages to another process; the object is made before the fork."""

    name: str

    def writing(self, load: Load) -> contextlib.AbstractContextManager[Writing]: ...
    def reading(self, load: Load) -> contextlib.AbstractContextManager[Reading]: ...


@dataclass(frozen=True)
class Sample:
    """What a round gave: latencies of the messages that arrived, and how many did not."""

    latencies_ns: Latencies
    lost: int


def measure(contestant: Contestant, load: Load, cores: tuple[int, int]) -> Sample:
    """One round: forks a writer and a reader, pins them, and returns what the reader saw."""
    context = multiprocessing.get_context("fork")
    reader_end, writer_end = context.Pipe()
    result, result_writer = context.Pipe(duplex=False)
    writer = context.Process(target=_write, args=(contestant, load, cores[0], writer_end))
    reader = context.Process(
        target=_read, args=(contestant, load, cores[1], reader_end, result_writer)
    )
    writer.start()
    reader.start()
    result_writer.close()
    bound = load.count * load.interval_ns / 1e9 * 5 + _STALLED_SECONDS
    try:
        _await_result(contestant, result, [writer.sentinel, reader.sentinel], bound)
        latencies = np.frombuffer(result.recv_bytes(), dtype=np.int64)
        reader.join(10)
        writer.join(10)
    except EOFError:
        raise RuntimeError(f"{contestant.name}: its reader failed, see above") from None
    finally:
        for process in (reader, writer):
            process.kill()
            process.join()
        for end in (reader_end, writer_end, result):
            end.close()
    counted = latencies[latencies >= 0]
    return Sample(counted, len(latencies) - len(counted))


def _await_result(
    contestant: Contestant, result: Connection, processes: list[int], bound: float
) -> None:
    """Returns once there is a result, and raises when a process ended without one."""
    give_up = time.monotonic() + bound
    while time.monotonic() < give_up:
        ready = connection.wait([result, *processes], 1.0)
        if result in ready:
            return
        if ready and not result.poll(2.0):
            raise RuntimeError(f"{contestant.name}: one of its processes failed, see above")
    raise TimeoutError(f"{contestant.name}: no result after {bound:.0f} s")


def _write(contestant: Contestant, load: Load, core: int, partner: Connection) -> None:
    with contestant.writing(load) as writing, _quiet(core):
        _repeat_until_answered(writing, -1, partner)
        writing.send_all(time.monotonic_ns() + _LEAD_NS)
        _repeat_until_answered(writing, load.count, partner)


def _repeat_until_answered(writing: Writing, index: int, partner: Connection) -> None:
    """Only what was heard surely stands (a subscription) or is over (the round)."""
    give_up = time.monotonic() + _STALLED_SECONDS
    while not partner.poll(0.02):
        if time.monotonic() > give_up:
            raise TimeoutError("the reader does not answer")
        writing.send_now(index)
    partner.recv_bytes()


def _read(
    contestant: Contestant, load: Load, core: int, partner: Connection, result: Connection
) -> None:
    with contestant.reading(load) as reading, _quiet(core):
        reading.await_probe()
        partner.send_bytes(b"heard")
        latencies = reading.receive_all()
        partner.send_bytes(b"done")
        result.send_bytes(latencies[load.count // _WARM_UP_PART :].tobytes())


class PythonWriting:
    """A writing end in Python. ``stage`` runs before a message is due, ``send`` when it is."""

    def __init__(
        self,
        load: Load,
        send: Callable[[bytearray], object],
        stage: Callable[[bytearray], object] = lambda _payload: None,
    ) -> None:
        self._load = load
        self._send = send
        self._stage = stage
        self._payload = bytearray(load.size)

    def send_now(self, index: int) -> None:
        """Sends one message without a due time."""
        STAMP.pack_into(self._payload, 0, 0, index)
        self._stage(self._payload)
        self._send(self._payload)

    def send_all(self, start_ns: int) -> None:
        """Sends the load's messages by its timetable."""
        clock, pack, stage, send = time.monotonic_ns, STAMP.pack_into, self._stage, self._send
        payload, interval_ns, due = self._payload, self._load.interval_ns, start_ns
        for index in range(self._load.count):
            pack(payload, 0, due, index)
            stage(payload)
            while clock() < due:
                pass
            send(payload)
            due += interval_ns


class PythonReading:
    """A reading end in Python. ``receive`` waits for the next message and returns its payload."""

    def __init__(self, load: Load, receive: Callable[[], Payload]) -> None:
        self._load = load
        self._receive = receive
        self._look: Callable[[Payload], tuple[int, int]]
        self._look = touch if load.touch else STAMP.unpack_from

    def await_probe(self) -> None:
        """Returns once any message was received."""
        self._receive()

    def receive_all(self) -> Latencies:
        """Latencies by message index, -1 for a message that did not come."""
        clock, look, receive = time.monotonic_ns, self._look, self._receive
        latencies = [-1] * (self._load.count + 1)
        index, end = -1, self._load.count
        while index < end:
            due, index = look(receive())
            now = clock()
            latencies[index] = now - due  # a probe that is still under way lands in the last place
        return np.array(latencies[:end], dtype=np.int64)


def touch(payload: Any) -> tuple[int, int]:
    """Reads all of a payload, any buffer, then its stamp."""
    np.frombuffer(payload, dtype=np.uint64).max()
    return STAMP.unpack_from(payload)


@contextlib.contextmanager
def _quiet(core: int) -> Iterator[None]:
    """Pins this thread only: a peer's own threads were started before and stay free to move."""
    gc.collect()
    gc.freeze()
    gc.disable()
    pin(core)
    yield


def percentile(latencies_ns: Latencies, percent: float) -> float:
    """The nearest rank: a latency that was measured, the largest where samples are too few."""
    ordered = np.sort(latencies_ns)
    rank = math.ceil(len(ordered) * percent / 100)
    return float(ordered[max(rank, 1) - 1])
