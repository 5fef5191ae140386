"""The compiled module: the only importer of ``bitcoin_sprint._native``.

``lib`` holds the C functions of ``native/cdef/*.h``, ``ffi`` makes and reads C data. Calls release
the GIL.
"""

from __future__ import annotations

from typing import Any

from bitcoin_sprint._native import ffi as _ffi
from bitcoin_sprint._native import lib as _lib

__all__ = ["ffi", "lib"]

ffi: Any = _ffi
lib: Any = _lib
