"""Every format of block file gives the same blocks, and what is none says so by name."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from regtest_blocks import chain_of

from bitcoin_sprint.chains import network
from bitcoin_sprint.ingest import block_files
from bitcoin_sprint.ingest.block_files import BlockFileError, blocks_in, load

REGTEST = network("regtest")
BLOCKS = [block.raw for block in chain_of(5)]


def framed(*raws: bytes, magic: bytes = REGTEST.magic) -> bytes:
    return b"".join(magic + len(raw).to_bytes(4, "little") + raw for raw in raws)


def read(path: Path) -> list[bytes]:
    return [bytes(raw) for raw in blocks_in(load(path), REGTEST, path)]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "blocks"
        path.write_bytes(content)
        return path

    return write


Write = Callable[[bytes], Path]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (BLOCKS[0], BLOCKS[:1]),
        (framed(*BLOCKS), BLOCKS),
        (framed(*BLOCKS) + bytes(5_000), BLOCKS),
        (framed(BLOCKS[0]) + bytes(100) + framed(*BLOCKS[1:]), BLOCKS),
        (bytes(9_000) + framed(*BLOCKS), BLOCKS),
        (bytes(9_000), []),
        ("\n".join(raw.hex() for raw in BLOCKS).encode(), BLOCKS),
        ("\r\n\r\n".join(raw.hex().upper() for raw in BLOCKS).encode() + b"\r\n", BLOCKS),
        (BLOCKS[0].hex().encode(), BLOCKS[:1]),
        (b" ".join(b"%02x" % byte for byte in BLOCKS[0]), BLOCKS[:1]),
        (b"\n".join(BLOCKS[0].hex(" ", 16).encode().split()), BLOCKS[:1]),
    ],
    ids=[
        "raw",
        "framed",
        "framed, space behind",
        "framed, space between",
        "framed, space before",
        "space alone",
        "hex, a block a line",
        "hex, foreign line ends",
        "hex, one block",
        "hex, in bytes",
        "hex, one block over many lines",
    ],
)
@pytest.mark.parametrize("pack", [bytes, bz2.compress, gzip.compress])
def test_every_format_gives_the_same_blocks(
    write: Write, content: bytes, expected: list[bytes], pack: Callable[[bytes], bytes]
) -> None:
    assert read(write(pack(content))) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (bz2.compress(b""), "is empty"),
        (b"\x28\xb5\x2f\xfdwhatever", "compressed with zstd; decompress it first"),
        (bz2.compress(BLOCKS[0])[:-9], "can't be read"),
        (gzip.compress(BLOCKS[0])[:-9], "can't be read"),
        (b"BZh9 but no more", "can't be read"),
        (b"File path: dump.dat\n", "is no file of blocks: neither framed by fabfb5da nor hex"),
        (b"\x01" * 4_000_001, "one raw block has 81 to 4000000 bytes, not 4000001"),
        (framed(BLOCKS[0], magic=network("main").magic), "holds blocks of main, network is 'reg"),
        (framed(*BLOCKS)[:-1], r"ends within the block at byte \d+: 1 bytes are missing"),
        (framed(BLOCKS[0]) + REGTEST.magic + b"\x01", "ends within the block"),
        (framed(BLOCKS[0]) + b"noise", "no block at byte"),
        (framed(BLOCKS[0]) + b"noise" + framed(BLOCKS[1]), "5 bytes of something else at"),
        (framed(b"short"), "a block of 5 bytes at byte 0"),
        (BLOCKS[0].hex().encode() + b"\n" + b"ab" * 3_000 + b"xyz", "holds other characters"),
        (b"abc" * 101, "block 1 has an odd number of digits"),
    ],
)
def test_what_is_no_block_file_says_so(write: Write, content: bytes, message: str) -> None:
    path = write(content)
    with pytest.raises(BlockFileError, match=message) as refused:
        read(path)
    assert str(path) in str(refused.value)


def test_blocks_before_the_damage_are_given(write: Write) -> None:
    path = write(framed(*BLOCKS)[:-1])
    blocks = blocks_in(load(path), REGTEST, path)
    assert [bytes(next(blocks)) for _ in range(4)] == BLOCKS[:4]
    with pytest.raises(BlockFileError):
        next(blocks)


def test_a_compressed_file_is_bounded(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_files, "UNPACKED_BYTES_MAX", 1_000)
    with pytest.raises(BlockFileError, match="holds more than 1000 bytes"):
        load(write(bz2.compress(bytes(1_001))))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BlockFileError, match="can't be read: No such file"):
        load(tmp_path / "nothing")
