"""The bytes of a block file by their offset: of a file read front to back, or of memory.

Bitcoin Core (since 28.0) may obscure its block files: every byte is XORed with one of the eight
bytes of a key, which one the byte's offset in the file modulo eight decides. What Core allocated
ahead and did not write yet is plain zeros all the same. Both kinds here take the key off as bytes
come in, and know such space from content.

Files are read, not mapped: Core cuts a file that it has finished to its length, and a mapping that
lies behind the new end would kill the process. Out of the page cache that gives blocks at 7.4 GB/s,
obscured ones at 5.9 GB/s, where read(2) alone has 12 GB/s (2-core VM; `make bench
SUITE=block_files`): a disk, and the proof of the blocks, take far longer.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Final, Protocol

import numpy as np

KEY_BYTES: Final = 8
READ_BYTES: Final = 1 << 20
"""Read and XORed at a time: few calls, and still in the cache when it is looked at."""
SPACE_BYTES: Final = 1 << 16
NO_KEY: Final = bytes(KEY_BYTES)


class Window(Protocol):
    """A file's bytes. One thread."""

    @property
    def key(self) -> bytes:
        """The key that was taken off; all zero where there was none."""
        ...

    def view(self, offset: int, length: int) -> memoryview:
        """Return ``length`` bytes at ``offset``, fewer at the end; valid until the next call."""
        ...

    def copy(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset``, also once the window is closed."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class MemoryWindow:
    """Over bytes in memory, which are borrowed."""

    key = NO_KEY

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def close(self) -> None:
        """See ``Window``."""

    def view(self, offset: int, length: int) -> memoryview:
        """See ``Window``."""
        return self._data[offset : offset + length]

    def copy(self, offset: int, length: int) -> bytes:
        """See ``Window``."""
        return bytes(self._data[offset : offset + length])


class FileWindow:
    """Over a file, through one buffer. Bytes behind the buffer's front can't be viewed again.

    What the file gains while it is read is seen. Its methods raise OSError where it can't be read.
    """

    def __init__(self, path: Path, key: bytes, room_bytes: int) -> None:
        """``room_bytes``: the longest view."""
        self.key = key
        self._path = path
        self._room = room_bytes
        self._buffer = bytearray(2 * room_bytes + READ_BYTES)
        self._whole = memoryview(self._buffer)
        self._pattern = _pattern(key)
        self._base = 0
        self._end = 0
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def close(self) -> None:
        """See ``Window``."""
        os.close(self._descriptor)

    def view(self, offset: int, length: int) -> memoryview:
        """See ``Window``."""
        assert self._base <= offset, "a window only goes forward"
        assert length <= self._room
        while self._end < offset + length and self._read_on(offset):
            pass
        start = min(offset, self._end) - self._base
        return self._whole[start : min(start + length, self._end - self._base)]

    def copy(self, offset: int, length: int) -> bytes:
        """See ``Window``. Reads the file again."""
        with self._path.open("rb") as file:
            file.seek(offset)
            found = bytearray(file.read(length))
        _take_off(found, offset, self._pattern)
        return bytes(found)

    def _read_on(self, needed: int) -> bool:
        """Read more, dropping what lies before ``needed``; False at the file's end."""
        if self._end - self._base + READ_BYTES > len(self._buffer):
            front = min(needed, self._end)
            kept = self._end - front
            self._whole[:kept] = self._whole[front - self._base : self._end - self._base]
            self._base = front
        start = self._end - self._base
        piece = self._whole[start : start + READ_BYTES]
        count = os.preadv(self._descriptor, [piece], self._end)
        if self.key != NO_KEY:
            _take_off(piece[:count], self._end, self._pattern)
        self._end += count
        return count > 0


def past_space(window: Window, offset: int, magic: bytes) -> int:
    """Return the offset of the first byte from ``offset`` on that is no space, or of the end.

    A key may make zeros of the first bytes of ``magic``: where it stands, space ends. (Of all four
    it would, at one place, with one key in 2**32: such space is taken for damage.)
    """
    pattern = _pattern(window.key)
    overlap = len(magic) - 1
    while bytes(window.view(offset, len(magic))) != magic:
        piece = window.view(offset, SPACE_BYTES)
        expected = pattern[offset % KEY_BYTES :][: len(piece)]
        differing = np.flatnonzero(np.frombuffer(piece, np.uint8) != expected)
        if len(differing):
            first = int(differing[0])
            start = offset + max(0, first - overlap)
            found = bytes(window.view(start, 2 * len(magic))).find(magic)
            return start + found if found >= 0 else offset + first
        if len(piece) < SPACE_BYTES:
            return offset + len(piece)
        offset += len(piece) - overlap
    return offset


def is_space(window: Window, piece: memoryview, offset: int) -> bool:
    """Return whether ``piece``, at ``offset`` in the file, is all zeros there; so is no piece."""
    start = offset % KEY_BYTES
    return bytes(piece) == (window.key * (len(piece) // KEY_BYTES + 2))[start : start + len(piece)]


def find(window: Window, wanted: bytes, offset: int, end: int | None = None) -> int:
    """Return where ``wanted`` stands next from ``offset`` on; ``end`` (None: the file's) where it
    does not stand before it."""
    while True:
        length = SPACE_BYTES if end is None else min(SPACE_BYTES, end - offset)
        piece = bytes(window.view(offset, length))
        found = piece.find(wanted)
        if found >= 0:
            return offset + found
        if len(piece) < SPACE_BYTES:
            return offset + len(piece)
        offset += len(piece) - len(wanted) + 1


@functools.cache
def _pattern(key: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(key * (READ_BYTES // KEY_BYTES + 1), np.uint8)


def _take_off(
    piece: bytearray | memoryview, offset: int, pattern: np.ndarray[tuple[int], np.dtype[np.uint8]]
) -> None:
    """XOR ``piece``, which stands at ``offset`` in its file, in place."""
    for start in range(0, len(piece), READ_BYTES):
        bytes_there = np.frombuffer(piece, np.uint8)[start : start + READ_BYTES]
        first = (offset + start) % KEY_BYTES
        np.bitwise_xor(bytes_there, pattern[first : first + len(bytes_there)], out=bytes_there)
