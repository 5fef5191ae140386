"""The standard library's queue between processes: a pipe under a lock."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.queues import SimpleQueue

from bench.oneway import Load, Payload, PythonReading, PythonWriting


class MultiprocessingQueue:
    """``SimpleQueue``, the quicker of the two: it writes to the pipe itself, without a thread."""

    name = "multiprocessing queue"
    variant = "SimpleQueue, spinning"

    def __init__(self) -> None:
        self._queue: SimpleQueue[bytes] = multiprocessing.get_context("fork").SimpleQueue()

    @contextlib.contextmanager
    def writing(self, load: Load) -> Iterator[PythonWriting]:
        """The queue, given bytes, which pickle quicker than a bytearray."""
        put = self._queue.put
        staged: list[bytes] = []
        yield PythonWriting(
            load, lambda _payload: put(staged.pop()), lambda payload: staged.append(bytes(payload))
        )

    @contextlib.contextmanager
    def reading(self, load: Load) -> Iterator[PythonReading]:
        """The queue, looked at until something is in it."""
        yield PythonReading(load, _spinning(self._queue))


def _spinning(queue: SimpleQueue[bytes]) -> Callable[[], Payload]:
    empty, get = queue.empty, queue.get

    def wait() -> Payload:
        while empty():
            pass
        return get()

    return wait
