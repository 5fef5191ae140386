"""Targets keep Bitcoin's compact form to the letter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitcoin_sprint.validate import decode_bits, encode_bits, work_of


@pytest.mark.parametrize(
    ("bits", "target"),
    [
        (0x00123456, None),
        (0x01003456, None),
        (0x01123456, 0x12),
        (0x02123456, 0x1234),
        (0x03123456, 0x123456),
        (0x04123456, 0x12345600),
        (0x05009234, 0x92340000),
        (0x20123456, 0x123456 << 232),
        (0x04923456, None),  # negative
        (0x01FEDCBA, None),
        (0x04800001, None),
        (0xFF123456, None),  # above 256 bits
        (0x2200FFFF, None),
        (0x220000FF, 0xFF << 248),
        (0x2100FFFF, 0xFFFF << 240),
        (0x21010000, None),
        (0x220100FF, None),
        (0x1D00FFFF, 0xFFFF << 208),
        (0x207FFFFF, 0x7FFFFF << 232),
        (0, None),
    ],
)
def test_compact_forms_mean_what_they_mean_in_bitcoin_core(bits: int, target: int | None) -> None:
    assert decode_bits(bits) == target


@given(st.integers(1, (1 << 256) - 1))
def test_encoding_keeps_the_leading_bits_and_never_exceeds(target: int) -> None:
    kept = decode_bits(encode_bits(target))
    assert kept is not None
    assert kept <= target
    assert target - kept < max(1, target >> 15)
    assert encode_bits(kept) == encode_bits(target)


def test_work_is_how_many_hashes_a_block_takes() -> None:
    assert work_of(0x1D00FFFF) == 0x0100010001
    assert work_of(0x207FFFFF) == 2
    assert work_of(0) == work_of(0x04923456) == 0
