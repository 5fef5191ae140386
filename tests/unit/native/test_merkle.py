"""The tree that grows leaf by leaf has the root of the one that is there at once."""

from __future__ import annotations

import random

import pytest
from oracle.block import merkle

from bitcoin_sprint.native import ffi, lib


@pytest.mark.parametrize("count", [*range(1, 71), 1_023, 1_024, 1_025, 2_047, 3_000, 4_097])
def test_the_root_of_any_number_of_leaves(count: int) -> None:
    dice = random.Random(count)
    leaves = [dice.randbytes(32) for _ in range(count)]
    root = ffi.new("uint8_t[32]")
    assert lib.sp_merkle_root(b"".join(leaves), count, root) == 0
    assert (bytes(root), False) == merkle(leaves)


@pytest.mark.parametrize(("count", "repeated"), [(5, 1), (3, 1), (6, 2), (20, 4), (1_536, 512)])
def test_repeated_ends_have_the_same_root_and_are_told(count: int, repeated: int) -> None:
    leaves = [i.to_bytes(32, "little") for i in range(count)]
    more = leaves + leaves[-repeated:]
    root, same = ffi.new("uint8_t[32]"), ffi.new("uint8_t[32]")
    assert lib.sp_merkle_root(b"".join(leaves), len(leaves), root) == 0
    assert lib.sp_merkle_root(b"".join(more), len(more), same) == 1
    assert bytes(root) == bytes(same)
