"""The header chain's file: batches of headers, appended, each under its own checksum.

Layout, little-endian. First 64 bytes: magic ``SPHDRS01``, network magic (4), height of the root
(u32), hash of the root (32), zeros (12), CRC-32 of all that (u32). Then batches: count of headers
(u32), CRC-32 of the count and the headers (u32), the headers (80 each), parents before children.

Nothing is ever rewritten. What a crash or a full disk left half-written at the end fails its
checksum and is cut off when the file is opened; headers lost that way are asked of the network
again. One process at a time: the file is locked for as long as it is open.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Final

from bitcoin_sprint.chains import Network
from bitcoin_sprint.errors import ConfigError, HostError, WriterActive

_MAGIC: Final = b"SPHDRS01"
_HEAD: Final = struct.Struct("<8s4sI32s12x")
_HEAD_BYTES: Final = _HEAD.size + 4
_BATCH: Final = struct.Struct("<II")
_BATCH_MAX: Final = 1 << 20
_HEADER_BYTES: Final = 80


class HeaderFile:
    """An open header file, positioned after its last whole batch."""

    def __init__(self, path: Path, network: Network, root_hash: bytes, root_height: int) -> None:
        """Open or create; lock; check that it belongs to this network and root.

        Raises ConfigError for another network's or a foreign file, HostError where the system
        refuses, WriterActive where another process has it.
        """
        self.path = path
        head = _HEAD.pack(_MAGIC, network.magic, root_height, root_hash)
        self._head = head + struct.pack("<I", zlib.crc32(head))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise HostError(f"{path}: cannot open the header file: {error.strerror}") from error
        try:
            self._lock()
            self._end = self._check_head()
        except BaseException:
            os.close(self._fd)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WriterActive(f"{self.path}: in use by another instance") from error
        except OSError as error:
            raise HostError(f"{self.path}: cannot lock it: {error.strerror}") from error

    def _check_head(self) -> int:
        found = os.pread(self._fd, _HEAD_BYTES, 0)
        if found == self._head:
            return _HEAD_BYTES
        if not self._head.startswith(found[: len(_MAGIC)]):
            raise ConfigError(f"{self.path}: not a header file; move it away to start anew")
        torn = (
            len(found) < _HEAD_BYTES or zlib.crc32(found[:-4]).to_bytes(4, "little") != found[-4:]
        )
        if not torn:
            raise ConfigError(
                f"{self.path}: holds the headers of another network or checkpoint; "
                "move it away to start anew"
            )
        try:
            os.ftruncate(self._fd, 0)
            self._write(self._head, 0)
        except OSError as error:
            raise HostError(
                f"{self.path}: cannot begin the header file: {error.strerror}"
            ) from error
        return _HEAD_BYTES

    def _write(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written

    def read(self) -> Generator[bytes, None, None]:
        """Every whole batch's headers, oldest first, before the first append.

        What is left after the batch that the caller took last is cut off when the iterator ends or
        is closed: a torn end, or what the caller could make nothing of.
        """
        try:
            while (headers := self._batch_at(self._end)) is not None:
                taken = _BATCH.size + len(headers)
                yield headers
                self._end += taken
        finally:
            os.ftruncate(self._fd, self._end)

    def _batch_at(self, offset: int) -> bytes | None:
        """The headers of the batch at ``offset``; None where there is no whole one."""
        fields = os.pread(self._fd, _BATCH.size, offset)
        if len(fields) < _BATCH.size:
            return None
        count, crc = _BATCH.unpack(fields)
        if not 0 < count <= _BATCH_MAX:
            return None
        headers = os.pread(self._fd, count * _HEADER_BYTES, offset + _BATCH.size)
        if (
            len(headers) < count * _HEADER_BYTES
            or zlib.crc32(headers, zlib.crc32(fields[:4])) != crc
        ):
            return None
        return headers

    def append(self, headers: bytes) -> None:
        """Add one batch. Raises HostError, and leaves the file as it was, where that fails."""
        count = len(headers) // _HEADER_BYTES
        crc = zlib.crc32(headers, zlib.crc32(struct.pack("<I", count)))
        try:
            self._write(_BATCH.pack(count, crc) + headers, self._end)
        except OSError as error:
            with contextlib.suppress(OSError):  # the checksum tells a torn end as well
                os.ftruncate(self._fd, self._end)
            raise HostError(f"{self.path}: cannot save headers: {error.strerror}") from error
        self._end += _BATCH.size + len(headers)

    def close(self) -> None:
        """Flush to the disk, unlock, close. Raises HostError where the disk fails."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise HostError(f"{self.path}: cannot save headers: {error.strerror}") from error
        finally:
            os.close(self._fd)
