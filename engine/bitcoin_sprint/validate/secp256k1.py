"""ECDSA signature verification on secp256k1, for one signature a signet block.

Plain integers, no secrets and thus no side channel to guard; some milliseconds a signature, which
is nothing beside a block every ten minutes and saves a compiled dependency. Curve and algorithm:
SEC 1 version 2, sections 2.2 and 4.1.4; SEC 2 version 2, section 2.4.1.
"""

from __future__ import annotations

from typing import Final

_P: Final = 2**256 - 2**32 - 977
_N: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
_G: Final = (
    0x79BE667E_F9DCBBAC_55A06295_CE870B07_029BFCDB_2DCE28D9_59F2815B_16F81798,
    0x483ADA77_26A3C465_5DA4FBFC_0E1108A8_FD17B448_A6855419_9C47D08F_FB10D4B8,
)

Point = tuple[int, int] | None
"""Affine; None is the point at infinity."""


def _add(a: Point, b: Point) -> Point:
    if a is None or b is None:
        return b if a is None else a
    (ax, ay), (bx, by) = a, b
    if ax == bx:
        if (ay + by) % _P == 0:
            return None
        slope = 3 * ax * ax * pow(2 * ay, -1, _P) % _P
    else:
        slope = (by - ay) * pow(bx - ax, -1, _P) % _P
    x = (slope * slope - ax - bx) % _P
    return x, (slope * (ax - x) - ay) % _P


def _multiply_both(u: int, a: Point, v: int, b: Point) -> Point:
    """u·a + v·b, one doubling a bit for both."""
    both = _add(a, b)
    total: Point = None
    for bit in range(max(u.bit_length(), v.bit_length()) - 1, -1, -1):
        total = _add(total, total)
        match u >> bit & 1, v >> bit & 1:
            case 1, 1:
                total = _add(total, both)
            case 1, 0:
                total = _add(total, a)
            case 0, 1:
                total = _add(total, b)
    return total


def parse_public_key(key: bytes) -> Point:
    """The point of a compressed public key (33 bytes). Raises ValueError where it is none."""
    if len(key) != 33 or key[0] not in (2, 3):
        raise ValueError("not a compressed public key")
    x = int.from_bytes(key[1:], "big")
    square = (x * x * x + 7) % _P
    y = pow(square, (_P + 1) // 4, _P)
    if x >= _P or y * y % _P != square:
        raise ValueError("not on the curve")
    return x, y if y & 1 == key[0] & 1 else _P - y


def parse_der_signature(der: bytes) -> tuple[int, int]:
    """(r, s) of a signature in strict DER (BIP66). Raises ValueError where it is not."""
    if not 8 <= len(der) <= 72 or der[0] != 0x30 or der[1] != len(der) - 2:
        raise ValueError("not a DER sequence")
    numbers = []
    rest = der[2:]
    for _ in range(2):
        if len(rest) < 3 or rest[0] != 0x02 or not 1 <= rest[1] <= len(rest) - 2:
            raise ValueError("not a DER integer")
        body, rest = rest[2 : 2 + rest[1]], rest[2 + rest[1] :]
        if body[0] & 0x80 or (len(body) > 1 and body[0] == 0 and not body[1] & 0x80):
            raise ValueError("negative or padded DER integer")
        numbers.append(int.from_bytes(body, "big"))
    if rest:
        raise ValueError("bytes after the DER sequence")
    return numbers[0], numbers[1]


def verify(public_key: bytes, digest: bytes, signature: bytes) -> bool:
    """Whether ``signature`` (strict DER) signs the 32-byte ``digest`` under a compressed key.

    A high s is accepted, as consensus does. False, never an error, for anything malformed.
    """
    try:
        point = parse_public_key(public_key)
        r, s = parse_der_signature(signature)
    except ValueError:
        return False
    if not (0 < r < _N and 0 < s < _N):
        return False
    inverse = pow(s, -1, _N)
    u = int.from_bytes(digest, "big") * inverse % _N
    total = _multiply_both(u, _G, r * inverse % _N, point)
    return total is not None and total[0] % _N == r
