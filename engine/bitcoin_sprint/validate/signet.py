"""Signet's block signatures (BIP325).

A signet block carries, in the output that holds its witness commitment, a solution to the network's
challenge script. It signs the block's version, parent, time and merkle root, the last taken without
the solution itself. The challenge here is always m-of-n bare multisig, as the default signet's is:
its solution is a legacy ``scriptSig`` of pushes, and no witness. Solutions in any other form are
refused, although a script interpreter might accept some that nobody makes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from bitcoin_sprint.errors import BlockRefused
from bitcoin_sprint.native import ffi, lib
from bitcoin_sprint.validate.secp256k1 import verify

_SIGNET_HEADER: Final = bytes.fromhex("ecc7daa2")
_COMMITMENT_PREFIX: Final = bytes.fromhex("6a24aa21a9ed")
_OP_RETURN: Final = 0x6A
_OP_CHECKMULTISIG: Final = 0xAE
_PUSHDATA: Final = {0x4C: 1, 0x4D: 2, 0x4E: 4}
_SIGHASH_NONE: Final = 2


class _Block(Protocol):
    @property
    def raw(self) -> bytes | memoryview: ...
    @property
    def coinbase(self) -> bytes: ...
    @property
    def txids(self) -> npt.NDArray[np.uint8]: ...


class Operation(NamedTuple):
    """One operation of a script; ``data`` is what it pushes, empty where it pushes nothing."""

    opcode: int
    data: bytes


class _Malformed(Exception):
    pass


def compact_size(value: int) -> bytes:
    """``value`` as a CompactSize."""
    if value < 0xFD:
        return bytes([value])
    if value <= 0xFFFF:
        return b"\xfd" + value.to_bytes(2, "little")
    return b"\xfe" + value.to_bytes(4, "little")


def _read_compact_size(data: bytes, at: int) -> tuple[int, int]:
    """A CompactSize and the position after it. Raises _Malformed if cut short or not canonical."""
    if at >= len(data):
        raise _Malformed
    width = {0xFD: 2, 0xFE: 4, 0xFF: 8}.get(data[at], 0)
    end = at + 1 + width
    value = int.from_bytes(data[at + 1 : end], "little") if width else data[at]
    if end > len(data) or compact_size(value) != data[at:end]:
        raise _Malformed
    return value, end


def operations(script: bytes) -> Iterator[Operation]:
    """The operations of a script, in order; raises _Malformed at a push that is cut short."""
    at = 0
    while at < len(script):
        opcode = script[at]
        at += 1
        length = opcode if opcode < 0x4C else 0
        if opcode in _PUSHDATA:
            width = _PUSHDATA[opcode]
            if at + width > len(script):
                raise _Malformed
            length = int.from_bytes(script[at : at + width], "little")
            at += width
        if at + length > len(script):
            raise _Malformed
        yield Operation(opcode, script[at : at + length])
        at += length


def _push(data: bytes) -> bytes:
    """A script that pushes ``data``, in the shortest form that a push operation allows."""
    for opcode, width in _PUSHDATA.items():
        if len(data) < 0x4C:
            return bytes([len(data)]) + data
        if len(data) < 1 << 8 * width:
            return bytes([opcode]) + len(data).to_bytes(width, "little") + data
    raise ValueError("too long for a script")


def split_solution(script: bytes) -> tuple[bytes, bytes | None]:
    """Take the solution out of a commitment script: (script without it, solution or None).

    The solution is what follows the four bytes of BIP325 in the first push that opens with them and
    has more; those four stay behind. As in Bitcoin Core, the script is written anew: pushes in
    their shortest form, and a push that is cut short at the end is dropped.
    """
    kept, solution = bytearray(), None
    try:
        for opcode, data in operations(script):
            if solution is None and data[:4] == _SIGNET_HEADER and len(data) > 4:
                solution = data[4:]
                kept += _push(_SIGNET_HEADER)
            else:
                kept += _push(data) if data else bytes([opcode])
    except _Malformed:
        pass
    return (script, None) if solution is None else (bytes(kept), solution)


class Coinbase(NamedTuple):
    """A coinbase without its witness, split at the script of its commitment output."""

    before: bytes
    """Up to the script's length."""
    script: bytes
    after: bytes


def split_coinbase(raw: bytes) -> Coinbase:
    """Split a serialized coinbase, with or without witness; it was parsed before.

    Raises BlockRefused("bad-signet-blksig") where no output commits to witnesses.
    """
    at = 6 if raw[4] == 0 else 4
    body = at
    count, at = _read_compact_size(raw, at)
    for _ in range(count):
        length, at = _read_compact_size(raw, at + 36)
        at += length + 4
    count, at = _read_compact_size(raw, at)
    found: tuple[int, int, int] | None = None
    for _ in range(count):
        value_end = at + 8
        length, script_at = _read_compact_size(raw, value_end)
        at = script_at + length
        if length >= 38 and raw[script_at : script_at + 6] == _COMMITMENT_PREFIX:
            found = value_end, script_at, at
    if found is None:
        raise BlockRefused("bad-signet-blksig", "no output commits to witnesses")
    value_end, script_at, script_end = found
    after = raw[script_end:at] + raw[-4:]
    return Coinbase(raw[:4] + raw[body:value_end], raw[script_at:script_end], after)


def _sha256d(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def merkle_root_with(coinbase: bytes, txids: npt.NDArray[np.uint8]) -> bytes:
    """The merkle root of a block's txids with the coinbase, given without witness, replaced."""
    leaves = bytearray(txids.tobytes())
    leaves[:32] = _sha256d(coinbase)
    root = bytearray(32)
    lib.sp_merkle_root(
        ffi.from_buffer("uint8_t[]", leaves), len(leaves) // 32, ffi.from_buffer("uint8_t[]", root)
    )
    return bytes(root)


def signature_hash(block_data: bytes, challenge: bytes, hash_type: int) -> bytes:
    """What a signature of type ``hash_type`` signs: the legacy digest of BIP325's spending
    transaction, whose one input spends the transaction that commits to ``block_data``."""
    to_spend = (
        _transaction_start(bytes(32), 0xFFFFFFFF)
        + compact_size(len(block_data) + 2)
        + b"\x00"
        + _push(block_data)
        + bytes(4)
        + b"\x01"
        + bytes(8)
        + compact_size(len(challenge))
        + challenge
        + bytes(4)
    )
    # With one input and one output, the types but NONE differ in nothing that is hashed.
    signs_outputs = hash_type & 0x1F != _SIGHASH_NONE
    to_sign = (
        _transaction_start(_sha256d(to_spend), 0)
        + compact_size(len(challenge))
        + challenge
        + bytes(4)
        + (b"\x01" + bytes(8) + b"\x01" + bytes([_OP_RETURN]) if signs_outputs else b"\x00")
        + bytes(4)
    )
    return _sha256d(to_sign + hash_type.to_bytes(4, "little"))


def _transaction_start(previous: bytes, index: int) -> bytes:
    """Version 0 and the outpoint of a single input."""
    return bytes(4) + b"\x01" + previous + index.to_bytes(4, "little")


def parse_multisig(script: bytes) -> tuple[int, list[bytes]]:
    """(signatures needed, public keys) of a bare multisig script. Raises ValueError for others."""
    try:
        keys = [data for _, data in operations(script[1:-2])]
    except _Malformed:
        keys = []
    if (
        len(script) < 3
        or script[-1] != _OP_CHECKMULTISIG
        or not keys
        or script[-2] != 0x50 + len(keys)
        or not 0x51 <= script[0] <= 0x50 + len(keys)
        or any(len(key) != 33 for key in keys)
    ):
        raise ValueError("only bare multisig challenges over compressed keys are understood")
    return script[0] - 0x50, keys


def _solves(solution: bytes, block_data: bytes, challenge: bytes) -> bool:
    """Whether ``solution`` (serialized scriptSig, then witness stack) satisfies the challenge."""
    needed, keys = parse_multisig(challenge)
    try:
        length, at = _read_compact_size(solution, 0)
        script, witness = solution[at : at + length], solution[at + length :]
        stack = list(operations(script))
    except _Malformed:
        return False
    # BIP325 wants both parts and nothing after them; a legacy script wants an empty witness.
    if len(script) != length or witness != b"\x00" or len(stack) != needed + 1:
        return False
    # An empty dummy (BIP147), then signatures. An operation without data is not a signature.
    if stack[0].opcode != 0 or not all(data for _, data in stack[1:]):
        return False
    signatures = [data for _, data in stack[1:]]
    # Signatures stand in their keys' order, so one pass from the end matches them.
    while signatures and len(signatures) <= len(keys):
        key = keys.pop()
        signature = signatures[-1]
        digest = signature_hash(block_data, challenge, signature[-1])
        if verify(key, digest, signature[:-1]):
            signatures.pop()
    return not signatures


def check_solution(block: _Block, challenge: bytes) -> None:
    """Check a proved block's signature against the network's challenge script.

    Raises BlockRefused("bad-signet-blksig"), Bitcoin Core's word, where there is no valid solution.
    """
    coinbase = split_coinbase(block.coinbase)
    script, solution = split_solution(coinbase.script)
    if solution is None:
        raise BlockRefused("bad-signet-blksig", "no solution to the network's challenge")
    changed = coinbase.before + compact_size(len(script)) + script + coinbase.after
    root = merkle_root_with(changed, block.txids)
    header = bytes(block.raw[:80])
    block_data = header[:36] + root + header[68:72]
    if not _solves(solution, block_data, challenge):
        raise BlockRefused("bad-signet-blksig", "the solution's signature is not valid")
