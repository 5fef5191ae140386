"""Build the compiled core; everything declarative stands in pyproject.toml."""

import os
from pathlib import Path

from setuptools import Extension, find_packages, setup

_SANITIZE = os.environ.get("SPRINT_SANITIZE")
_SANITIZER_FLAGS = [f"-fsanitize={_SANITIZE}", "-g", "-O1"] if _SANITIZE else []

# The calls of a trading loop as CPython types; all else goes through cffi (native/ffi_build.py).
_HOT = Extension(
    "bitcoin_sprint._hot",
    sorted(map(str, Path("native/python").glob("*.c"))),
    include_dirs=["native", "native/include"],
    depends=sorted(map(str, Path("native").glob("**/*.h"))),
    extra_compile_args=[
        *("-std=c11", "-O3", "-fvisibility=hidden", "-fno-strict-aliasing"),
        *("-Wall", "-Wextra", "-Wshadow", "-Wpointer-arith", "-Werror"),
        *("-Wno-unused-function", "-Wno-missing-field-initializers"),
        *_SANITIZER_FLAGS,
    ],
    extra_link_args=_SANITIZER_FLAGS,
    py_limited_api=True,
)

setup(
    package_dir={"": "engine"},
    # bitcoin_sprint/include, a link to native/include, carries sprint.h into the wheel.
    packages=[*find_packages("engine"), "bitcoin_sprint.include"],
    package_data={
        "bitcoin_sprint": ["*.pyi", "py.typed", "default.toml"],
        "bitcoin_sprint.include": ["*.h"],
    },
    cffi_modules=["native/ffi_build.py:ffi"],
    ext_modules=[_HOT],
    # One wheel serves Python 3.11 and later: both modules use the limited API alone.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
