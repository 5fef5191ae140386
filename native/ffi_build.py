"""cffi build script of the compiled core, ``bitcoin_sprint._native`` (API mode, limited API).

Each ``native/cdef/<name>.h`` is the real text of what Python may call out of ``native/<name>.c``;
each C file is compiled by itself, so that one primitive stays one file. No ``-march=native``:
instruction sets are chosen at run time, and a file that needs one names it with
``__attribute__((target(...)))``.
"""

import os
from pathlib import Path

from cffi import FFI

_NATIVE = Path(__file__).resolve().parent
_ROOT = _NATIVE.parent

_SOURCES = sorted(path.relative_to(_ROOT).as_posix() for path in _NATIVE.glob("*.c"))
_HEADERS = sorted([*_NATIVE.glob("*.h"), *_NATIVE.glob("include/*.h")])
_CDEFS = sorted(_NATIVE.glob("cdef/*.h"))

_COMPILE = [
    "-std=c11",
    "-O3",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wpointer-arith",
    "-Wno-unused-function",
    "-Wno-missing-field-initializers",
    "-Werror",
]
# SPRINT_SANITIZE=address,undefined or thread builds the module for a sanitizer run.
_SANITIZE = os.environ.get("SPRINT_SANITIZE")
_SANITIZER_FLAGS = [f"-fsanitize={_SANITIZE}", "-g", "-O1"] if _SANITIZE else []

ffi = FFI()
for _cdef in _CDEFS:
    ffi.cdef(_cdef.read_text(encoding="utf-8"))
ffi.set_source(
    "bitcoin_sprint._native",
    "\n".join(f'#include "{path.name}"' for path in sorted(_NATIVE.glob("*.h"))),
    sources=_SOURCES,
    depends=[path.as_posix() for path in [*_HEADERS, *_CDEFS]],
    include_dirs=[_NATIVE.as_posix(), (_NATIVE / "include").as_posix()],
    extra_compile_args=[*_COMPILE, *_SANITIZER_FLAGS],
    extra_link_args=_SANITIZER_FLAGS,
    libraries=["rt", "pthread"],
    py_limited_api=True,
)

if __name__ == "__main__":
    ffi.compile(verbose=True)
