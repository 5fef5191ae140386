"""Every format of block file gives the same blocks, and what is none says so by name."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from regtest_blocks import chain_of

from bitcoin_sprint.chains import network
from bitcoin_sprint.ingest import block_files as module
from bitcoin_sprint.ingest.block_files import BlockFileError, ForeignNetwork, block_files, blocks_in
from bitcoin_sprint.ingest.block_records import Fault

REGTEST = network("regtest")
BLOCKS = [block.raw for block in chain_of(5)]
KEY = bytes.fromhex("8f00a1c32b77fe09")
Write = Callable[..., Path]


def obscured(content: bytes, key: bytes = KEY) -> bytes:
    return bytes(byte ^ key[offset % 8] for offset, byte in enumerate(content))


def framed(*raws: bytes, magic: bytes = REGTEST.magic) -> bytes:
    return b"".join(magic + len(raw).to_bytes(4, "little") + raw for raw in raws)


def read(path: Path) -> list[bytes]:
    return [
        b"fault" if isinstance(found, Fault) else bytes(found.raw)
        for found in blocks_in(path, REGTEST)
    ]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: bytes, name: str = "blocks") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


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
        (b"\x01" * 4_000_001, "one raw block has 81 to 4000000 bytes"),
        (framed(BLOCKS[0], magic=network("main").magic), "holds blocks of main, network is 'reg"),
        (BLOCKS[0].hex().encode() + b"\n" + b"ab" * 3_000 + b"xyz", "holds other characters"),
        (b"abc" * 101, "block 1 has an odd number of digits"),
    ],
)
def test_what_is_no_block_file_says_so(write: Write, content: bytes, message: str) -> None:
    path = write(content)
    with pytest.raises(BlockFileError, match=message) as refused:
        read(path)
    assert str(path) in str(refused.value)


def test_core_s_key_beside_a_file_is_taken_off(write: Write) -> None:
    write(KEY, "xor.dat")
    # What Core allocated ahead is plain zeros.
    path = write(obscured(framed(*BLOCKS)) + bytes(70_000), "blk00000.dat")
    assert read(path) == BLOCKS
    again = [found.again() for found in blocks_in(path, REGTEST) if not isinstance(found, Fault)]
    assert again == BLOCKS


@pytest.mark.parametrize("position", range(8))
@pytest.mark.parametrize("space", [0, 5, 70_001])
def test_a_key_that_makes_zeros_of_the_magic_hides_no_block(
    write: Write, position: int, space: int
) -> None:
    key = b"\x01" * position + REGTEST.magic[:3] + bytes(8)
    write(key[:8], "xor.dat")
    content = b"".join(obscured(framed(raw), key[:8]) for raw in BLOCKS[:1])
    rest = obscured(bytes(len(content) + space) + framed(*BLOCKS[1:]), key[:8])
    content += bytes(space) + rest[len(content) + space :]
    assert read(write(content, "blk00000.dat")) == BLOCKS


def test_files_beside_a_key_that_are_not_obscured_are_read_as_they_are(write: Write) -> None:
    write(KEY, "xor.dat")
    assert read(write(framed(*BLOCKS), "blk00000.dat")) == BLOCKS
    assert read(write(BLOCKS[0], "one.raw")) == BLOCKS[:1]
    assert read(write(BLOCKS[0].hex().encode(), "one.hex")) == BLOCKS[:1]
    assert read(write(gzip.compress(framed(*BLOCKS)), "packed")) == BLOCKS
    assert read(write(bytes(70_000), "blk00001.dat")) == []


def test_a_key_of_zeros_is_none(write: Write) -> None:
    write(bytes(8), "xor.dat")
    assert read(write(framed(*BLOCKS), "blk00000.dat")) == BLOCKS


def test_another_network_is_named_under_a_key_too(write: Write) -> None:
    write(KEY, "xor.dat")
    path = write(obscured(framed(*BLOCKS, magic=network("signet").magic)), "blk00000.dat")
    with pytest.raises(ForeignNetwork, match="holds blocks of signet, network is 'regtest'"):
        read(path)


def test_a_key_of_another_length_is_an_error_that_names_it(write: Write) -> None:
    write(KEY[:7], "xor.dat")
    path = write(obscured(framed(*BLOCKS)), "blk00000.dat")
    with pytest.raises(BlockFileError, match=r"xor\.dat is no key of Bitcoin Core: it has 7 bytes"):
        read(path)


def test_an_obscured_file_without_its_key_says_what_is_missing(write: Write) -> None:
    path = write(obscured(framed(*BLOCKS)) * 4_000, "blk00000.dat")
    with pytest.raises(BlockFileError, match=r"xor\.dat is to lie beside it"):
        read(path)


def test_a_compressed_file_is_bounded(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNPACKED_BYTES_MAX", 1_000)
    with pytest.raises(BlockFileError, match="holds more than 1000 bytes"):
        read(write(bz2.compress(bytes(1_001))))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BlockFileError, match="can't be read: No such file"):
        read(tmp_path / "nothing")


def test_of_a_nodes_folder_the_block_files_alone_are_taken_by_their_numbers(write: Write) -> None:
    names = ["blk100000.dat", "blk00010.dat", "blk00009.dat", "rev00009.dat", "xor.dat"]
    files = [write(b"x", name) for name in names]
    assert block_files(files[0].parent) == [files[2], files[1], files[0]]


def test_of_any_other_folder_every_file_is_taken_by_its_name(write: Write) -> None:
    files = [write(b"x", name) for name in ["b.raw", "a.hex", "blocks.bz2"]]
    assert block_files(files[0].parent) == [files[1], files[0], files[2]]
