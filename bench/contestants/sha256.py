"""SHA-256 by everybody: ours, each of our variants, OpenSSL, ``hashlib``.

A contestant turns a ``Shape`` into a function that hashes it once, or into None where it has no
form for it. Who hashes one message at a time is called in a loop in C, except for ``hashlib``.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.compiled import compiled
from bitcoin_sprint.native import address_of, ffi, lib

Work = Callable[[], object]


@dataclass(frozen=True)
class Shape:
    """``count`` messages of ``length`` bytes. ``together``: given as one batch and hashed twice,
    as ids and merkle nodes are; else each by itself, once."""

    length: int
    count: int
    together: bool

    @property
    def bytes(self) -> int:
        return self.length * self.count

    @property
    def name(self) -> str:
        size = f"{self.length} B" if self.length < 1024 else f"{self.length >> 10} KiB"
        return f"{size}, {self.count} together, hashed twice" if self.together else size


@dataclass(frozen=True)
class Ours:
    """What the engine uses; with a variant's name, that one forced to do it."""

    variant: str | None = None

    @property
    def name(self) -> str:
        return f"our {self.variant}" if self.variant else "ours"

    def prepare(self, shape: Shape, data: bytes) -> Work | None:
        """None where the processor lacks the variant, or it has no form of its own for streams."""
        if not self._force():
            return None
        if not shape.together and self.variant not in (None, _text(lib.sp_sha256_name())):
            return None
        out = ffi.new("uint8_t[]", 32 * shape.count)
        source = ffi.from_buffer("uint8_t[]", data)
        if not shape.together:
            loop = _loops().loop_once
            once = address_of(ffi.addressof(lib, "sp_sha256"))
            places = address_of(out), address_of(source)

            def each(keep: object = (out, source)) -> object:
                return loop(once, *places, shape.length, shape.count) or keep

            return each
        messages = ffi.new(
            "sp_sha256_message[]",
            [(source + i * shape.length, shape.length, out + 32 * i) for i in range(shape.count)],
        )

        def batch(keep: object = (out, source)) -> object:
            if shape.length == 64:
                return lib.sp_sha256d_pairs(out, source, shape.count)
            return lib.sp_sha256d_messages(messages, shape.count) or keep

        return batch

    def _force(self) -> bool:
        name = ffi.NULL if self.variant is None else self.variant.encode()
        return bool(lib.sp_sha256_force(name) == 0)

    def is_there(self) -> bool:
        """Whether this processor has it."""
        there = self._force()
        lib.sp_sha256_force(ffi.NULL)
        return there

    def make_ready(self) -> None:
        """Before each timing: another contestant may have forced something else."""
        self._force()


class OpenSsl:
    """libcrypto's SHA256_Init, _Update and _Final: its quickest form, without looking up a name."""

    name = "OpenSSL"

    def prepare(self, shape: Shape, data: bytes) -> Work | None:
        found = ctypes.util.find_library("crypto")
        if found is None:
            return None
        crypto = ctypes.CDLL(found)
        calls = [getattr(crypto, f"SHA256_{step}", None) for step in ("Init", "Update", "Final")]
        if None in calls:
            return None
        pointers = [ctypes.cast(call, ctypes.c_void_p) for call in calls]  # type: ignore[arg-type]
        out = ctypes.create_string_buffer(32)
        work: Work = functools.partial(
            _loops().loop_openssl, *pointers, out, data, shape.length, shape.count, shape.together
        )
        return work

    def make_ready(self) -> None:
        """Nothing to do."""


class Hashlib:
    """The standard library, as Python calls it."""

    name = "hashlib"

    def prepare(self, shape: Shape, data: bytes) -> Work:
        step, sha256 = shape.length, hashlib.sha256
        messages = [data[at : at + step] for at in range(0, shape.bytes, step)]

        def once() -> None:
            for message in messages:
                sha256(message).digest()

        def twice() -> None:
            for message in messages:
                sha256(sha256(message).digest()).digest()

        return twice if shape.together else once

    def make_ready(self) -> None:
        """Nothing to do."""


def openssl_speed(length: int) -> float | None:
    """Bytes a nanosecond by ``openssl speed -evp sha256``, in a second; None: no such program."""
    program = shutil.which("openssl")
    if program is None:
        return None
    done = subprocess.run(
        [program, "speed", "-mr", "-seconds", "1", "-bytes", str(length), "-evp", "sha256"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    rates = re.findall(r"^\+F:\d+:[^:]+:([\d.]+)", done.stdout, re.MULTILINE)
    return float(rates[0]) / 1e9 if rates else None


def known_variants() -> list[str]:
    """Every variant there is, whether this processor has it or not."""
    found: list[str] = []
    while (name := lib.sp_sha256_known_at(len(found))) != ffi.NULL:
        found.append(_text(name))
    return found


def choice() -> str:
    """What the timing at the start chose."""
    lib.sp_sha256_force(ffi.NULL)
    chosen: Any = lib.sp_sha256_chosen()
    pairs, messages = ([_text(each.name) for each in of] for of in (chosen.pairs, chosen.messages))
    return (
        f"streams by {_text(chosen.stream.name)}, 64-byte inputs by {pairs[0]} and from "
        f"{chosen.pairs_from} on by {pairs[1]}, messages by {messages[0]} and from "
        f"{chosen.messages_from} on by {messages[1]}"
    )


def _text(name: Any) -> str:
    return bytes(ffi.string(name)).decode()


@functools.cache
def _loops() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(compiled("hash_loops")))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    loaded.loop_openssl.argtypes = [pointer] * 4 + [ctypes.c_char_p, size, size, ctypes.c_int]
    loaded.loop_openssl.restype = None
    loaded.loop_once.argtypes = [pointer, pointer, pointer, size, size]
    loaded.loop_once.restype = None
    return loaded
