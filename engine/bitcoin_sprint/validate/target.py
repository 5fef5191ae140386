"""Targets, their compact form in headers (nBits), and the work that a block stands for."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=4096)
def decode_bits(bits: int) -> int | None:
    """The target that the compact form ``bits`` (u32) stands for.

    None where the form is negative, zero or above 256 bits: no header with it can be valid.
    """
    exponent, mantissa = bits >> 24, bits & 0x007FFFFF
    if bits & 0x00800000 and mantissa:
        return None
    target = mantissa >> 8 * (3 - exponent) if exponent <= 3 else mantissa << 8 * (exponent - 3)
    return target if 0 < target < 1 << 256 else None


def encode_bits(target: int) -> int:
    """The compact form of ``target`` (0 to 2^256 - 1), which keeps its top 15 to 23 bits."""
    exponent = (target.bit_length() + 7) // 8
    mantissa = target << 8 * (3 - exponent) if exponent <= 3 else target >> 8 * (exponent - 3)
    if mantissa & 0x00800000:  # the sign bit must stay clear
        mantissa >>= 8
        exponent += 1
    return exponent << 24 | mantissa


@lru_cache(maxsize=4096)
def work_of(bits: int) -> int:
    """Hashes expected for one block under the target ``bits``; 0 for a target that is none."""
    target = decode_bits(bits)
    return 0 if target is None else (1 << 256) // (target + 1)
