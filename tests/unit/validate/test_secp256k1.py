"""Signatures are verified as consensus does: strict DER, any s, nothing else forgiven."""

from __future__ import annotations

import pytest

from bitcoin_sprint.validate.secp256k1 import (
    parse_der_signature,
    parse_public_key,
    verify,
)

N = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
# Key 1, digest of zeros but the last byte, nonce 1: r is the generator's x, s = digest + r.
KEY = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
DIGEST = bytes(31) + b"\x05"
R = int.from_bytes(KEY[1:], "big")
S = (5 + R) % N


def der(r: int, s: int) -> bytes:
    parts = b""
    for number in (r, s):
        data = number.to_bytes(number.bit_length() // 8 + 1, "big")
        parts += bytes([2, len(data)]) + data
    return bytes([0x30, len(parts)]) + parts


def test_a_signature_holds_for_its_key_and_digest_alone() -> None:
    assert verify(KEY, DIGEST, der(R, S))
    assert not verify(KEY, bytes(31) + b"\x06", der(R, S))
    assert not verify(b"\x03" + KEY[1:], DIGEST, der(R, S))
    assert not verify(KEY, DIGEST, der(R, S + 1))


def test_a_high_s_is_accepted() -> None:
    assert verify(KEY, DIGEST, der(R, N - S))


@pytest.mark.parametrize(("r", "s"), [(0, S), (R, 0), (N, S), (R, N), (R + N, S), (R, S + N)])
def test_numbers_out_of_range_are_refused(r: int, s: int) -> None:
    assert not verify(KEY, DIGEST, der(r, s))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        lambda sig: sig[:-1],
        lambda sig: sig + b"\x00",
        lambda sig: b"\x31" + sig[1:],
        lambda sig: sig[:1] + bytes([sig[1] + 1]) + sig[2:] + b"\x00",
        lambda sig: sig[:2] + b"\x03" + sig[3:],
        lambda sig: bytes([0x30, sig[1] + 1, 2, sig[3] + 1, 0]) + sig[4:],
        lambda _: b"\x30\x06\x02\x01\x80\x02\x01\x01",
        lambda _: b"\x30\x06\x02\x00\x02\x02\x01\x01",
    ],
)
def test_der_is_strict(spoil) -> None:
    with pytest.raises(ValueError, match="DER"):
        parse_der_signature(spoil(der(R, S)))


@pytest.mark.parametrize(
    "key", [b"", KEY[:-1], b"\x04" + KEY[1:], b"\x02" + bytes(31) + b"\x05", b"\x02" + b"\xff" * 32]
)
def test_keys_that_are_none_are_refused(key: bytes) -> None:
    with pytest.raises(ValueError, match=r"key|curve"):
        parse_public_key(key)
    assert not verify(key, DIGEST, der(R, S))


@pytest.mark.usefixtures("btclib")
def test_btclibs_own_curve_library_agrees() -> None:
    from ecc.ecc import dsa

    for secret in (1, 2, 0xDEADBEEF, N - 1, 0x1234567890ABCDEF << 180):
        _, point = dsa.gen_keys(secret)
        key = bytes([2 + point[1] % 2]) + point[0].to_bytes(32, "big")
        digest = (secret * 7919 % N).to_bytes(32, "big")
        signature = dsa.sign_(digest, secret).serialize()
        assert verify(key, digest, signature)
        assert not verify(key, digest[::-1], signature)
