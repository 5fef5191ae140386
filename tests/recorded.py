"""Recorded data of real chains, in the folder that SPRINT_TEST_DATA names; none of it is ours.

Where the variable is not set, tests that need the folder are skipped and say so.
"""

from __future__ import annotations

import bz2
import gzip
import json
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zstandard

VARIABLE = "SPRINT_TEST_DATA"
needs_data = pytest.mark.skipif(
    not os.environ.get(VARIABLE), reason=f"{VARIABLE} is not set: tests on real data did not run"
)


class Recorded(NamedTuple):
    """What is known of a recorded block from elsewhere; ``hash`` as displayed."""

    file: str
    network: str
    height: int | None
    hash: str
    tx_count: int


# file network height transactions, then the hash
_BLOCKS = """
block1.raw main 1 1
  00000000839a8e6886ab5951d76f411475428afc90947ee320161bbf18eb6048
rawblock-131025.bin main 131025 110
  00000000000007d938dbdd433c5ae12a782de74abf7f566518bc2b2d0a1df145
block_13b8a.hex main - 9
  0000000000013b8ab2cd513b0261a14096412195a72a0c4827d229dcc7e0f7af
block169482.dat main 169482 14
  0000000000000756935f1ee9d5987857b604046f846d3df56d024cdb5f368665
block227835.dat main 227835 122
  00000000000001aa077d7aa84c532a4d69bdbff519609d1da0835261b7a74eb6
block227836.dat main 227836 100
  00000000000000d0dfd4c9d588d325dce4f32c1b31b7c0064cba7025a9b9adcc
block300025.raw main 300025 461
  0000000000000000821c4e0acc40f88bedbce3b73ba2358b5ade58a9022cc78c
block367891.raw main 367891 420
  000000000000000012ea0ca9579299ec120e3f57e7c309216884872592b29970
block370661.dat main 370661 708
  00000000000000001416a613602d73bbe5c79170fd8f39d509896b829cf9021e
block383616.dat main 383616 1731
  00000000000000000aab6a2b34e979b09ca185584bd1aecf204f24d150ff55e9
block413567.raw main 413567 1557
  0000000000000000025aff8be8a55df8f89c77296db6198f272d6577325d4069
block426884.raw main 426884 409
  00000000000000000431d0ead6e0bd9f90ff0d469e9b05d51e3d04971f472973
block481829.dat main 481829 2020
  000000000000000000917cba69f69b758fe396c8e30ae97bbcf08c4eb975e726
block482683.raw main 482683 12
  000000000000000000c238240ef6dcb26c37e75e16514e6ffc0aef7eee73e747
block514492.raw main 514492 1044
  00000000000000000008513c860373da0484f065983aeb063ebf81c172e81d48
block702861.raw main 702861 2500
  000000000000000000000c835b2adcaedc20fdf6ee440009c249452c726dafae
block928816.raw testnet3 928816 889
  00000000000001c4b87edf974ddc601d88dda332265b9849a944a5ff0141a378
block928849.raw testnet3 928849 993
  000000000000008d5be88d271df4ef8559ed54d6fd9e2705a3ba9ba376d8997d
block1087400.raw testnet3 1087400 97
  0000000003db83e6ab01a6ebb26ad2b1481688009141c9afc204c54284e1ba66
block898352.raw testnet3 898352 10
  00000000c269ad542ed9ac684cb5fa6df340d5feee0e040590225c7332b98fca
block_testnet700000.dat testnet3 700000 4
  000000000000406178b12a4dea3b27e13b3c4fe4510994fd667d7c1e6a3f4dc1
rawblock-testnet-1151351.bin testnet3 1151351 56
  000000000000031525003c4e061fd2e5ce5f4fda6121a836e66f70ec2df621de
rawblock-testnet-265322.bin testnet3 265322 7
  0000000000014b351588a177be099e39afd4962cd3d58e9ab5cbe45a9cf83c8a
testnet_0000..045e0b16.raw testnet3 924634 15
  000000000000045e0b1660b6445b5e5c5ab63c9a4f956be7e1e69be04fa4497b
"""
BLOCKS = [
    Recorded(file, net, None if height == "-" else int(height), digest, int(count))
    for file, net, height, count, digest in zip(*[iter(_BLOCKS.split())] * 5, strict=True)
]
"""Single blocks, raw or as hex."""

FRAMED = {
    "first-100k-blocks.dat": 439,
    "btcd_blocks1-256.bz2": 255,
    "btcd_blk_0_to_4.dat.bz2": 5,
    "btcd_blk_3A.dat.bz2": 1,
    "btcd_blk_4A.dat.bz2": 1,
    "btcd_blk_5A.dat.bz2": 1,
    "btcd_277647.dat.bz2": 1,
}
"""Runs of mainnet blocks, each after the network's magic and its length, and how many they hold."""


def path(name: str) -> Path:
    """A file of the folder, by its path there."""
    return Path(os.environ[VARIABLE]) / name


def read(name: str) -> bytes:
    """A file's bytes, decompressed by its suffix (bz2, gz, zst); hex is decoded."""
    data = path(name).read_bytes()
    match Path(name).suffix:
        case ".bz2":
            return bz2.decompress(data)
        case ".gz":
            return gzip.decompress(data)
        case ".zst":
            return zstandard.ZstdDecompressor().stream_reader(data).read()
        case ".hex":
            return bytes.fromhex(data.decode())
    return data


def load(name: str) -> Any:
    """A JSON file."""
    return json.loads(path(name).read_text())


def block(recorded: Recorded) -> bytes:
    return read(f"bitcoin/{recorded.file}")


def framed(name: str) -> Iterator[bytes]:
    """The blocks of a run, oldest first."""
    data = read(f"bitcoin/{name}")
    at = 0
    while at < len(data):
        magic, length = struct.unpack_from("<4sI", data, at)
        assert magic == bytes.fromhex("f9beb4d9")
        yield data[at + 8 : at + 8 + length]
        at += 8 + length
    assert at == len(data)


def annotated_blocks(name: str) -> list[bytes]:
    """The blocks of a dump in words of hex, each after its magic and length."""
    blocks = []
    for part in path(f"bitcoin/{name}").read_text().split("Block ")[1:]:
        words = re.findall(r"\b[0-9a-f]{2,8}\b", part.split(":", 1)[1].split("File path")[0])
        raw = bytes.fromhex("".join(words))
        blocks.append(raw[8 : 8 + int.from_bytes(raw[4:8], "little")])
    return blocks


def headers(name: str) -> list[bytes]:
    """Headers that stand one after another in a file."""
    data = read(f"bitcoin/{name}")
    return [data[at : at + 80] for at in range(0, len(data), 80)]
