"""Raw blocks in files: which format a file has, and the blocks in it.

- **framed**: each block behind the network's magic and its length (as in Core's ``blk*.dat``);
- **hex**: text, one block a line, or one block over many lines;
- **raw**: one block as it is.

Each of them may be compressed (bzip2, gzip); that and the format are seen from the content, never
from the name. How a file is read (``load``) and what is found in it (``blocks_in``) are apart, so
that files stored otherwise need another ``load`` alone.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import mmap
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

from bitcoin_sprint.chains import NETWORKS, Network
from bitcoin_sprint.errors import FeedError

Buffer: TypeAlias = bytes | mmap.mmap

UNPACKED_BYTES_MAX: Final = 1 << 30
"""What a compressed file may hold."""
BLOCK_BYTES_MIN: Final = 81
HEX_LINE_CHARACTERS_MIN: Final = 2 * BLOCK_BYTES_MIN

_HEX = re.compile(rb"[0-9a-fA-F\s]*\Z")
_SNIFFED = 4_096
_OPENERS: Final = ((b"BZh", bz2.BZ2File), (b"\x1f\x8b", gzip.GzipFile))
_REFUSED = {b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\0": "xz"}


class BlockFileError(FeedError):
    """A file is not one of raw blocks, or ends too early. The text names it and what was found."""


def load(path: Path) -> Buffer:
    """A file's content, decompressed; plain files are mapped, not read.

    Raises BlockFileError where it can't be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(6)
            for magic, opener in _OPENERS:
                if head.startswith(magic):
                    with opener(path) as packed:
                        return _unpack(packed, path)
            for magic, name in _REFUSED.items():
                if head.startswith(magic):
                    raise BlockFileError(f"{path} is compressed with {name}; decompress it first")
            if not head:
                raise BlockFileError(f"{path} is empty")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        raise BlockFileError(f"{path} can't be read: {detail}") from None


def blocks_in(data: Buffer, network: Network, path: Path) -> Iterator[memoryview]:
    """The raw blocks in a file's content, in its order; ``path`` is for errors.

    A view is valid until the next one is asked for. Raises BlockFileError, after the blocks before
    the place that is wrong.
    """
    head = bytes(data[:_SNIFFED])
    if head.startswith(network.magic) or not head.strip(b"\0"):
        return _framed(data, network, path)
    for other in NETWORKS.values():
        if head.startswith(other.magic):
            raise BlockFileError(
                f"{path} holds blocks of {other.name}, network is {network.name!r}"
            )
    if _HEX.match(head) and head.strip():
        return _hex(data, path)
    if not BLOCK_BYTES_MIN <= len(data) <= network.block_bytes_max:
        raise BlockFileError(
            f"{path} is no file of blocks: neither framed by {network.magic.hex()} nor hex, and "
            f"one raw block has {BLOCK_BYTES_MIN} to {network.block_bytes_max} bytes, not "
            f"{len(data)}"
        )
    return iter((memoryview(data),))


def _unpack(packed: bz2.BZ2File | gzip.GzipFile, path: Path) -> bytes:
    data = packed.read(UNPACKED_BYTES_MAX + 1)
    if len(data) > UNPACKED_BYTES_MAX:
        raise BlockFileError(f"{path} holds more than {UNPACKED_BYTES_MAX} bytes; decompress it")
    if not data:
        raise BlockFileError(f"{path} is empty")
    return data


def _framed(data: Buffer, network: Network, path: Path) -> Iterator[memoryview]:
    """Blocks behind magic and length; zeros between and after them are space not yet used."""
    view = memoryview(data)
    position = 0
    while True:
        start = data.find(network.magic, position)
        if start < 0:
            if bytes(view[position : position + _SNIFFED]).strip(b"\0"):
                raise BlockFileError(f"{path}: no block at byte {position}")
            return
        if start > position and bytes(view[position:start]).strip(b"\0"):
            raise BlockFileError(
                f"{path}: {start - position} bytes of something else at {position}"
            )
        length = int.from_bytes(view[start + 4 : start + 8], "little")
        end = start + 8 + length
        if end > len(view) or start + 8 > len(view):
            raise BlockFileError(
                f"{path} ends within the block at byte {start}: {end - len(view)} bytes are missing"
            )
        if not BLOCK_BYTES_MIN <= length <= network.block_bytes_max:
            raise BlockFileError(f"{path}: a block of {length} bytes at byte {start}")
        yield view[start + 8 : end]
        position = end


def _hex(data: Buffer, path: Path) -> Iterator[memoryview]:
    text = bytes(data)
    if not _HEX.match(text):
        raise BlockFileError(f"{path} begins as hex and holds other characters later on")
    lines = [line.strip() for line in text.split(b"\n") if line.strip()]
    # Lines too short for a block are parts of one.
    whole = all(len(line) >= HEX_LINE_CHARACTERS_MIN for line in lines)
    for number, line in enumerate(lines if whole else [b"".join(lines)], 1):
        try:
            yield memoryview(bytes.fromhex(line.decode()))
        except ValueError:
            raise BlockFileError(f"{path}: block {number} has an odd number of digits") from None
