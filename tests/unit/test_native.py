"""The compiled module: CRC32C, and return codes turned into exceptions."""

from __future__ import annotations

import random

import pytest

from bitcoin_sprint import errors
from bitcoin_sprint.native import crc32c, fail, ffi, lib


def _slow_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_crc32c_gives_the_values_of_rfc_3720() -> None:
    assert crc32c(b"") == 0
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(bytes(reversed(range(32)))) == 0x113FDB5C
    assert crc32c(b"123456789") == 0xE3069283


def test_the_chosen_crc32c_the_portable_one_and_the_definition_agree_at_every_length() -> None:
    noise = random.Random(1).randbytes(9000)
    assert lib.sp_crc32c_self_test() == 0
    for length in [*range(70), 127, 128, 383, 384, 385, 767, 768, 6143, 6144, 6145, 8999, 9000]:
        view = memoryview(noise)[3 : 3 + length]
        found = crc32c(view)
        assert found == lib.sp_crc32c_portable(0, ffi.from_buffer(view), len(view))
        if length < 1000:
            assert found == _slow_crc32c(bytes(view))


def test_crc32c_of_pieces_is_the_crc32c_of_the_whole() -> None:
    noise = random.Random(2).randbytes(20_000)
    crc, at = 0, 0
    for length in (1, 2, 3, 500, 7000, 12_494):
        crc = crc32c(noise[at : at + length], crc)
        at += length
    assert at == len(noise)
    assert crc == crc32c(noise)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(-1, errors.NotRunningError), (-3, errors.HostError), (-4, errors.Corrupt),
     (-6, errors.Closed), (-8, ValueError), (-9, errors.Overrun), (-99, errors.SprintError)],
)  # fmt: skip
def test_each_code_has_its_exception(code: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="what happened"):
        fail(code, "what happened")
