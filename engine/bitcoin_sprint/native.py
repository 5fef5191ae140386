"""The compiled module: the only importer of ``bitcoin_sprint._native``.

``lib`` holds the C functions of ``native/cdef/*.h``, ``ffi`` makes and reads C data. Functions
return negative codes (``enum sp_code`` in ``native/include/sprint.h``); ``fail`` is the
one place that turns them into exceptions. cffi releases the GIL during every call.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

from bitcoin_sprint import errors

try:
    from bitcoin_sprint import _hot
    from bitcoin_sprint._native import ffi as _ffi
    from bitcoin_sprint._native import lib as _lib
except ImportError as cause:
    raise ImportError("the compiled core is missing or stale: run `make native`") from cause

__all__ = ["crc32c", "fail", "ffi", "lib", "text_of"]

ffi: Final[Any] = _ffi
lib: Final[Any] = _lib

Committer = _hot.Committer
Cursor = _hot.Cursor
FrameView = _hot.Frame
Publisher = _hot.Publisher

_EXCEPTIONS: Final[dict[int, type[Exception]]] = {
    -1: errors.NotRunningError,  # SP_E_NOT_FOUND
    -2: errors.NotRunningError,  # SP_E_NOT_READY
    -3: errors.HostError,  # SP_E_PERMISSION
    -4: errors.Corrupt,  # SP_E_CORRUPT
    -5: errors.Corrupt,  # SP_E_VERSION
    -6: errors.Closed,  # SP_E_CLOSED
    -7: errors.HostError,  # SP_E_MEMORY
    -8: ValueError,  # SP_E_ARGUMENT
    -9: errors.Overrun,  # SP_E_OVERWRITTEN
    -10: errors.RingError,  # SP_E_LIMIT
    -11: errors.HostError,  # SP_E_SYSTEM
}


def fail(code: int, text: str) -> NoReturn:
    """Raise the exception that stands for a negative code, with a text for the operator."""
    raise _EXCEPTIONS.get(code, errors.SprintError)(text)


def address_of(pointer: Any) -> int:
    """Where a C pointer or function points, as a number."""
    return int(ffi.cast("uintptr_t", pointer))


def text_of(field: Any) -> str:
    """The zero-terminated text in a C array."""
    return bytes(ffi.string(field)).decode("utf-8", "replace")


def crc32c(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """CRC32C (RFC 3720) of ``data``, going on from ``crc`` (0 to begin). Thread-safe."""
    view = ffi.from_buffer(data)
    return int(lib.sp_crc32c(crc, view, len(view)))


_hot.connect(
    address_of(ffi.addressof(lib, "sp_writer_publish")),
    address_of(ffi.addressof(lib, "sp_reservation_commit")),
)
