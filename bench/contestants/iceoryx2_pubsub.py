"""iceoryx2 publish/subscribe by its Python package, its reader spinning.

The payload is a fixed-size structure, the quicker form for one size; the reader looks at it in
place. A sample is loaned, filled and sent; where only the release is timed, it is loaned and filled
beforehand.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from typing import Any

from bench.oneway import Load, Payload, PythonReading, PythonWriting

_BUFFERED_BYTES = 64 << 20  # as much as fits, so that a stalled reader loses little
_BUFFERED_MAX = 1024


class Iceoryx2:
    """One service a load, named after this process."""

    name = "iceoryx2"
    variant = "spinning"

    def __init__(self) -> None:
        import iceoryx2

        self._iox = iceoryx2
        iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
        self._service_name = f"sprint-bench-{os.getpid()}"

    @contextlib.contextmanager
    def writing(self, load: Load) -> Iterator[PythonWriting]:
        """A publisher that overwrites what a reader is slow to take."""
        service = self._service(load)
        publisher = service.publisher_builder().max_loaned_samples(2).create()
        if load.from_commit:
            yield PythonWriting(load, *_loaned_beforehand(publisher, load.size))
        else:
            yield PythonWriting(load, _loaning(publisher, load.size))
        del publisher, service

    @contextlib.contextmanager
    def reading(self, load: Load) -> Iterator[PythonReading]:
        """A subscriber polled in a loop."""
        service = self._service(load)
        subscriber = service.subscriber_builder().buffer_size(_buffered(load)).create()
        yield PythonReading(load, _polling(subscriber, load.size))
        del subscriber, service

    def _service(self, load: Load) -> Any:
        iox = self._iox
        message = type(
            f"Message{load.size}",
            (ctypes.Structure,),
            {"_fields_": [("words", ctypes.c_uint64 * (load.size // 8))]},
        )
        node = iox.NodeBuilder.new().create(iox.ServiceType.Ipc)
        self._node = node
        name = iox.ServiceName.new(f"{self._service_name}-{load.size}")
        builder = node.service_builder(name).publish_subscribe(message)
        builder = builder.enable_safe_overflow(True).subscriber_max_buffer_size(_buffered(load))
        return builder.history_size(0).max_publishers(1).max_subscribers(1).open_or_create()


def _buffered(load: Load) -> int:
    return min(_BUFFERED_MAX, _BUFFERED_BYTES // load.size)


def _loaning(publisher: Any, size: int) -> Callable[[bytearray], object]:
    loan, move, view = publisher.loan_uninit, ctypes.memmove, (ctypes.c_char * size).from_buffer

    def send(payload: bytearray) -> None:
        sample = loan()
        move(sample.payload_ptr, view(payload), size)
        sample.assume_init().send()

    return send


def _loaned_beforehand(
    publisher: Any, size: int
) -> tuple[Callable[[bytearray], object], Callable[[bytearray], object]]:
    staged: list[Any] = []
    view = (ctypes.c_char * size).from_buffer

    def stage(payload: bytearray) -> None:
        sample = publisher.loan_uninit()
        ctypes.memmove(sample.payload_ptr, view(payload), size)
        staged.append(sample.assume_init())

    def send(_payload: bytearray) -> None:
        staged.pop().send()

    return send, stage


def _polling(subscriber: Any, size: int) -> Callable[[], Payload]:
    receive, kind = subscriber.receive, ctypes.c_char * size
    held: list[Any] = [None]  # the sample stays borrowed until the next one is here

    def wait() -> Payload:
        while (sample := receive()) is None:
            pass
        held[0] = sample
        return memoryview(kind.from_address(sample.payload_ptr))

    return wait
