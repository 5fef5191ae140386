"""The C side of ``bench_ring``."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from bench.compiled import compiled

_CLOCK_SOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")


@functools.cache
def library() -> ctypes.CDLL:
    """``ring_ends.c`` as a loaded library with its functions' types declared."""
    loaded = ctypes.CDLL(str(compiled("ring_ends")))
    pointer, i64, u64 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64
    loaded.ends_write.argtypes = [pointer, pointer, pointer, u64, i64, u64, u64, ctypes.c_int]
    loaded.ends_write.restype = i64
    loaded.ends_open.argtypes = [ctypes.c_char_p]
    loaded.ends_open.restype = pointer
    loaded.ends_close.argtypes = [pointer]
    loaded.ends_close.restype = None
    loaded.ends_read.argtypes = [pointer, i64, ctypes.c_int, pointer]
    loaded.ends_trust_counter.argtypes = []
    loaded.ends_trust_counter.restype = None
    loaded.ends_ping.argtypes = [ctypes.c_int, ctypes.c_int, u64, u64, u64, pointer]
    return loaded


def share_clock() -> None:
    """Has the ends that are forked from now on take the time from the processor's own counter.

    Only where the kernel does so too; else they read CLOCK_MONOTONIC.
    """
    if _CLOCK_SOURCE.is_file() and _CLOCK_SOURCE.read_text().strip() == "tsc":
        library().ends_trust_counter()


def half_round_trip_ns(cores: tuple[int, int], interval_ns: int = 0) -> float:
    """Half of a bare cache-line round trip between two cores, the median of many.

    Back to back in batches; or one every ``interval_ns``, each for itself, its two looks at the
    clock included. Measured in a process of its own, since it pins its threads.
    """
    share_clock()
    context = multiprocessing.get_context("fork")
    result, result_writer = context.Pipe(duplex=False)
    process = context.Process(target=_ping, args=(cores, interval_ns, result_writer))
    process.start()
    result_writer.close()
    try:
        half: float = result.recv()
    finally:
        process.join()
    return half


def _ping(cores: tuple[int, int], interval_ns: int, result: Connection) -> None:
    batches, trips = (4000, 1) if interval_ns else (200, 1000)
    means = np.zeros(batches)
    if library().ends_ping(*cores, batches, trips, interval_ns, means.ctypes.data) != 0:
        raise OSError("no thread for the cache-line ping")
    result.send(float(np.median(means)) / 2)
