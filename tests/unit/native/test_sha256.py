"""Every SHA-256 that this processor can run says what hashlib says."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterator

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


def text(name: object) -> str:
    return bytes(ffi.string(name)).decode()


def named(variant: object) -> str:
    return text(variant.name)  # type: ignore[attr-defined]


EACH = pytest.mark.parametrize("variant", variants(), ids=named)
EACH_STREAMING = pytest.mark.parametrize(
    "variant",
    [variant for variant in variants() if variant.transform != ffi.NULL],  # type: ignore[attr-defined]
    ids=named,
)
PORTABLE = variants()[-1]


@pytest.fixture
def as_timed() -> Iterator[None]:
    """What a test forces holds for that test only."""
    yield
    assert lib.sp_sha256_force(ffi.NULL) == 0


def sha256d(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def messages_of(datas: list[bytes], out: object, offset: int = 0) -> tuple[object, object]:
    """The messages as C wants them, one after another from ``offset`` on, and their memory."""
    memory = ffi.new("uint8_t[]", bytes(offset) + b"".join(datas))
    messages = ffi.new("sp_sha256_message[]", max(len(datas), 1))
    at = offset
    for index, data in enumerate(datas):
        messages[index] = (memory + at, len(data), out + 32 * index)  # type: ignore[operator]
        at += len(data)
    return messages, memory


def test_the_portable_one_is_always_there_and_only_known_ones_are() -> None:
    names = [named(variant) for variant in variants()]
    assert names[-1] == "portable"
    known = []
    while (name := lib.sp_sha256_known_at(len(known))) != ffi.NULL:
        known.append(text(name))
    assert names == [name for name in known if name in names]
    assert lib.sp_sha256_known_at(-1) == ffi.NULL


def test_what_the_processor_says_it_has_is_there() -> None:
    with open("/proc/cpuinfo") as cpuinfo:
        flags = set(next((line for line in cpuinfo if line.startswith("flags")), "").split())
    needed = {
        "sha-ni": {"sha_ni", "ssse3", "sse4_1"},
        "avx2": {"avx2", "bmi2"},
        "avx512": {"avx512f", "avx512bw"},
        "portable": set[str](),
    }
    has = {named(variant) for variant in variants()}
    assert has == {name for name, flags_wanted in needed.items() if flags_wanted <= flags}


def test_the_choice_is_among_those_that_the_processor_has() -> None:
    for _ in range(5):
        choice = ffi.new("sp_sha256_choice *")
        assert lib.sp_sha256_choose(choice) == 0
        chosen = [choice.stream, *choice.pairs, *choice.messages]
        assert {named(variant) for variant in chosen} <= {named(variant) for variant in variants()}
        assert choice.stream.transform != ffi.NULL
        assert 1 <= choice.pairs_from <= choice.pairs[1].lanes
        assert 1 <= choice.messages_from <= choice.messages[1].lanes


def test_the_timing_finds_the_instruction_for_it() -> None:
    if not any(named(variant) == "sha-ni" for variant in variants()):
        pytest.skip("this processor has no SHA extensions: nothing is sure to win")
    choices = [ffi.new("sp_sha256_choice *") for _ in range(9)]
    assert all(lib.sp_sha256_choose(choice) == 0 for choice in choices)
    streams = [named(choice.stream) for choice in choices]
    assert streams.count("sha-ni") > len(streams) // 2, streams


@pytest.mark.usefixtures("as_timed")
@EACH
def test_a_forced_variant_does_all_that_it_has_a_form_for(variant) -> None:
    assert lib.sp_sha256_force(variant.name) == 0
    choice = lib.sp_sha256_chosen()
    used = {named(each) for each in [*choice.pairs, *choice.messages]}
    assert used == {named(variant)}
    if variant.transform != ffi.NULL:
        assert text(lib.sp_sha256_name()) == named(variant)
    data = random.Random(1).randbytes(4_000)
    out = ffi.new("uint8_t[]", 32 * 40)
    lib.sp_sha256(out, data, 3_999)
    assert bytes(out)[:32] == hashlib.sha256(data[:3_999]).digest()
    lib.sp_sha256d_pairs(out, data, 40)
    assert bytes(out) == b"".join(sha256d(data[i : i + 64]) for i in range(0, 40 * 64, 64))
    assert lib.sp_sha256_force(b"abacus") == -1


@EACH_STREAMING
@pytest.mark.parametrize("length", [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 1_000])
def test_the_compression_function_is_sha256s(variant, length: int) -> None:
    data = bytes(i * 31 % 256 for i in range(length))
    padded = data + b"\x80" + bytes(-(length + 9) % 64) + struct.pack(">Q", 8 * length)
    state = ffi.new("uint32_t[8]", INITIAL)
    variant.transform(state, padded, len(padded) // 64)
    assert struct.pack(">8I", *state) == hashlib.sha256(data).digest()


@EACH
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 40])
@pytest.mark.parametrize("offset", [0, 1, 13])
def test_pairs_are_hashed_twice_also_in_place(variant, count: int, offset: int) -> None:
    data = random.Random(count).randbytes(offset + 64 * count)
    expected = b"".join(sha256d(data[i : i + 64]) for i in range(offset, len(data), 64))
    guard = bytes(range(64))
    out = bytearray(32 * count + 64)
    out[32 * count :] = guard
    variant.pairs(ffi.from_buffer("uint8_t[]", out), ffi.from_buffer(data) + offset, count)
    assert out == expected + guard
    inside = bytearray(data)
    where = ffi.from_buffer("uint8_t[]", inside) + offset
    variant.pairs(where, where, count)
    assert inside[offset : offset + 32 * count] == expected


@EACH
@pytest.mark.parametrize("offset", [0, 1, 3, 31])
def test_messages_of_every_length_to_4_kib_are_hashed_twice(variant, offset: int) -> None:
    dice = random.Random(offset)
    lengths = [*range(300), *dice.choices(range(4_097), k=60), 4_096]
    dice.shuffle(lengths)
    datas = [dice.randbytes(length) for length in lengths]
    out = ffi.new("uint8_t[]", 32 * len(datas))
    messages, memory = messages_of(datas, out, offset)
    lib.sp_sha256d_messages_by(variant, PORTABLE, 1, messages, len(datas))
    assert bytes(out) == b"".join(map(sha256d, datas))
    lib.sp_sha256d_messages(messages, len(datas))
    assert bytes(out) == b"".join(map(sha256d, datas))
    assert memory is not None


@EACH
@given(
    st.lists(st.binary(max_size=300) | st.binary(min_size=4_000, max_size=4_100), max_size=70),
    st.integers(1, 17),
)
def test_any_batch_of_mixed_lengths(variant, datas: list[bytes], from_count: int) -> None:
    out = ffi.new("uint8_t[]", 32 * len(datas) + 32)
    messages, memory = messages_of(datas, out)
    narrow = variants()[from_count % len(variants())]
    lib.sp_sha256d_messages_by(variant, narrow, from_count, messages, len(datas))
    assert bytes(out) == b"".join(map(sha256d, datas)) + bytes(32)
    assert memory is not None


@given(st.binary(max_size=400))
def test_any_data_hashes_as_hashlib_hashes_it(data: bytes) -> None:
    out = ffi.new("uint8_t[32]")
    lib.sp_sha256(out, data, len(data))
    assert bytes(out) == hashlib.sha256(data).digest()
    lib.sp_sha256d(out, data, len(data))
    assert bytes(out) == sha256d(data)
