"""Raw blocks in files: which format a file has, and the blocks in it.

- **framed**: each block behind the network's magic and its length (``block_records``), as in
  Bitcoin Core's ``blk*.dat``, also obscured by the key in the ``xor.dat`` beside it;
- **hex**: text, one block a line, or one block over many lines;
- **raw**: one block as it is.

Each of them may be compressed (bzip2, gzip); that and the format are seen from the content, never
from the name. Framed files are read through a window of a few MiB, the others whole.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from bitcoin_sprint.chains import NETWORKS, Network
from bitcoin_sprint.errors import FeedError
from bitcoin_sprint.ingest.block_records import (
    BLOCK_BYTES_MIN,
    Found,
    StoredBlock,
    next_record,
    records,
    room_bytes,
)
from bitcoin_sprint.ingest.block_windows import (
    KEY_BYTES,
    NO_KEY,
    FileWindow,
    MemoryWindow,
    Window,
    past_space,
)

UNPACKED_BYTES_MAX: Final = 1 << 30
"""What a compressed file, or one of hex, may hold."""
HEX_LINE_CHARACTERS_MIN: Final = 2 * BLOCK_BYTES_MIN
KEY_FILE: Final = "xor.dat"

_HEX = re.compile(rb"[0-9a-fA-F\s]*\Z")
_SNIFFED: Final = 4_096
_RECORD_SOUGHT_BYTES: Final = 1 << 24
"""How far into a file that does not begin with a record one is looked for."""
_OPENERS: Final = ((b"BZh", bz2.BZ2File), (b"\x1f\x8b", gzip.GzipFile))
_REFUSED: Final = {b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\0": "xz"}
_NAMES_BY_MAGIC: Final = {each.magic: each.name for each in reversed(NETWORKS.values())}
_CORE_NAME = re.compile(r"blk(\d{5,})\.dat")


class BlockFileError(FeedError):
    """A file is not one of raw blocks, or can't be read. The text names it and what was found."""


class ForeignNetwork(BlockFileError):
    """A file holds another network's blocks; the other files of its folder will, too."""


def block_files(folder: Path) -> list[Path]:
    """The files of a folder that may hold blocks, by name: of a node's own the ``blk*.dat`` alone.

    Raises OSError.
    """
    files = sorted(
        each for each in folder.iterdir() if each.is_file() and not each.name.startswith(".")
    )
    numbered = {file: int(found[1]) for file in files if (found := _CORE_NAME.fullmatch(file.name))}
    # Core's numbers have five digits until they need six.
    return sorted(numbered, key=numbered.__getitem__) or files


def blocks_in(path: Path, network: Network) -> Iterator[Found]:
    """The raw blocks in a file, in its order, and the stretches of it that hold none.

    Raises BlockFileError, after the blocks before the place that is wrong.
    """
    try:
        data = _unpacked(path)
        keys = [NO_KEY] if data is not None else [*_key_beside(path), NO_KEY]

        def window(key: bytes) -> Window:
            if data is not None:
                return MemoryWindow(data)
            return FileWindow(path, key, room_bytes(network))

        key = _key_of_records(window, keys, network, path)
        with contextlib.closing(window(NO_KEY if key is None else key)) as opened:
            if key is not None:
                yield from records(opened, network)
            elif _HEX.match(head := bytes(opened.view(0, _SNIFFED))) and head.strip():
                yield from _hex(_text(path) if data is None else data, path)
            else:
                yield _lone_block(opened, network, path)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        raise BlockFileError(f"{path} can't be read: {detail}") from None


def _unpacked(path: Path) -> bytes | None:
    """The content of a compressed file, None where it is not compressed."""
    with path.open("rb") as file:
        head = file.read(6)
    if not head:
        raise BlockFileError(f"{path} is empty")
    for magic, name in _REFUSED.items():
        if head.startswith(magic):
            raise BlockFileError(f"{path} is compressed with {name}; decompress it first")
    opener = next((opener for magic, opener in _OPENERS if head.startswith(magic)), None)
    if opener is None:
        return None
    with opener(path) as packed:
        data: bytes = packed.read(UNPACKED_BYTES_MAX + 1)
    if len(data) > UNPACKED_BYTES_MAX:
        raise BlockFileError(f"{path} holds more than {UNPACKED_BYTES_MAX} bytes; decompress it")
    if not data:
        raise BlockFileError(f"{path} is empty")
    return data


def _key_beside(path: Path) -> list[bytes]:
    """The key of Core's that lies beside a file; nothing where there is none, or it is zero."""
    file = path.parent / KEY_FILE
    try:
        key = file.read_bytes()
    except FileNotFoundError:
        return []
    if len(key) != KEY_BYTES:
        raise BlockFileError(
            f"{file} is no key of Bitcoin Core: it has {len(key)} bytes, not {KEY_BYTES}; "
            f"{path.name} is not read"
        )
    return [key] if key != NO_KEY else []


def _key_of_records(
    window: Callable[[bytes], Window], keys: Sequence[bytes], network: Network, path: Path
) -> bytes | None:
    """Return by which of ``keys`` a file is one of records, None where by none.

    One that begins with a record, or with space, is; else one that holds a record further on and
    is no text. BlockFileError where it begins with another network's.
    """
    foreign = None
    is_text = False
    for key in keys:
        with contextlib.closing(window(key)) as seen:
            is_text = is_text or bool(_HEX.match(bytes(seen.view(0, _SNIFFED))))
            head = bytes(seen.view(past_space(seen, 0, network.magic), len(network.magic)))
            if head in (network.magic, b""):
                return key
            foreign = foreign or _NAMES_BY_MAGIC.get(head)
    if foreign is not None:
        raise ForeignNetwork(f"{path} holds blocks of {foreign}, network is {network.name!r}")
    for key in [] if is_text else keys:
        with contextlib.closing(window(key)) as seen:
            found = next_record(seen, network, 0, _RECORD_SOUGHT_BYTES)
            if bytes(seen.view(found, len(network.magic))) == network.magic:
                return key
    return None


def _lone_block(window: Window, network: Network, path: Path) -> StoredBlock:
    """A file that is one block. BlockFileError for a length that none has."""
    length = len(window.view(0, network.block_bytes_max + 1))
    if not BLOCK_BYTES_MIN <= length <= network.block_bytes_max:
        hint = ""
        if _CORE_NAME.fullmatch(path.name) and not (path.parent / KEY_FILE).exists():
            hint = f"; Bitcoin Core obscures its files: {KEY_FILE} is to lie beside it"
        raise BlockFileError(
            f"{path} is no file of blocks: neither framed by {network.magic.hex()} nor hex, and "
            f"one raw block has {BLOCK_BYTES_MIN} to {network.block_bytes_max} bytes{hint}"
        )
    return StoredBlock(window.view(0, length), 0, partial(window.copy, 0, length))


def _text(path: Path) -> bytes:
    if path.stat().st_size > UNPACKED_BYTES_MAX:
        raise BlockFileError(f"{path} holds more than {UNPACKED_BYTES_MAX} bytes of hex; split it")
    return path.read_bytes()


def _hex(text: bytes, path: Path) -> Iterator[StoredBlock]:
    if not _HEX.match(text):
        raise BlockFileError(f"{path} begins as hex and holds other characters later on")
    lines = [line.strip() for line in text.split(b"\n") if line.strip()]
    # Lines too short for a block are parts of one.
    whole = all(len(line) >= HEX_LINE_CHARACTERS_MIN for line in lines)
    for number, line in enumerate(lines if whole else [b"".join(lines)], 1):
        try:
            raw = bytes.fromhex(line.decode())
        except ValueError:
            raise BlockFileError(f"{path}: block {number} has an odd number of digits") from None
        yield StoredBlock(memoryview(raw), number, partial(bytes, raw))
