"""Every SHA-256 that this processor can run says what hashlib says."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitcoin_sprint.native import ffi, lib

INITIAL = struct.unpack(">8I", bytes.fromhex(
    "6a09e667bb67ae853c6ef372a54ff53a510e527f9b05688c1f83d9ab5be0cd19"
))  # fmt: skip


def variants() -> list[object]:
    found = []
    while (variant := lib.sp_sha256_variant_at(len(found))) != ffi.NULL:
        found.append(variant)
    return found


def named(variant: object) -> str:
    return bytes(ffi.string(variant.name)).decode()  # type: ignore[attr-defined]


EACH = pytest.mark.parametrize("variant", variants(), ids=named)


def sha256d(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def test_the_portable_one_is_always_there_and_the_best_is_chosen() -> None:
    names = [named(variant) for variant in variants()]
    assert names[-1] == "portable"
    assert bytes(ffi.string(lib.sp_sha256_name())).decode() == names[0]


@EACH
@pytest.mark.parametrize("length", [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 1_000])
def test_the_compression_function_is_sha256s(variant, length: int) -> None:
    data = bytes(i * 31 % 256 for i in range(length))
    padded = data + b"\x80" + bytes(-(length + 9) % 64) + struct.pack(">Q", 8 * length)
    state = ffi.new("uint32_t[8]", INITIAL)
    variant.transform(state, padded, len(padded) // 64)
    assert struct.pack(">8I", *state) == hashlib.sha256(data).digest()


@EACH
@pytest.mark.parametrize("count", [0, 1, 2, 3, 8, 17])
def test_pairs_are_hashed_twice_also_in_place(variant, count: int) -> None:
    data = bytes(i * 7 % 256 for i in range(64 * count))
    expected = b"".join(sha256d(data[64 * i : 64 * i + 64]) for i in range(count))
    out = bytearray(32 * count)
    variant.pairs(ffi.from_buffer("uint8_t[]", out), data, count)
    assert out == expected
    inside = bytearray(data)
    where = ffi.from_buffer("uint8_t[]", inside)
    variant.pairs(where, where, count)
    assert inside[: 32 * count] == expected


@given(st.binary(max_size=400))
def test_any_data_hashes_as_hashlib_hashes_it(data: bytes) -> None:
    out = ffi.new("uint8_t[32]")
    lib.sp_sha256(out, data, len(data))
    assert bytes(out) == hashlib.sha256(data).digest()
    lib.sp_sha256d(out, data, len(data))
    assert bytes(out) == sha256d(data)
