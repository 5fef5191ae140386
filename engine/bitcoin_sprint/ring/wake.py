"""The ``.wake`` object: where sleeping readers raise a flag. The only one that readers may write.

Both rings of an instance share it. Each writer holds a shared lock on it; the last to leave unlinks
it. The writer trusts nothing in it but "some flag may be up": a reader that fills it with noise
costs wake-ups, one that truncates it costs early wake-ups until ``mend``. Making it one is
idempotent, so writers that start at once do no harm to each other.
"""

from __future__ import annotations

import fcntl
import os
from typing import Any

from bitcoin_sprint.errors import HostError
from bitcoin_sprint.native import ffi, lib
from bitcoin_sprint.ring import layout, segment

_TRIES_MAX = 16


def wake_mode(mode: int) -> int:
    """A ring's mode with write added for everybody who may read: 0o640 gives 0o660."""
    return mode | (mode & 0o444) >> 1


class Wake:
    """A writer's hold on the wake object of its instance."""

    def __init__(self, instance: str, mode: int, group: str | None) -> None:
        self._path = layout.wake_path(instance)
        with segment.host_errors(self._path):
            self._fd = self._open()
            try:
                if os.fstat(self._fd).st_uid == os.geteuid():
                    segment.set_access(self._fd, self._path, wake_mode(mode), group)
                self.page: Any = self._map()
            except BaseException:
                os.close(self._fd)
                raise

    @property
    def inode(self) -> int:
        return os.fstat(self._fd).st_ino

    def intact(self) -> bool:
        """Whether nobody truncated it or wrote where no reader has to write."""
        return bool(lib.sp_wake_intact(self.page))

    def mend(self) -> None:
        """Make the damaged object whole again, in place: readers keep their descriptors."""
        lib.sp_wake_unmap(self.page)
        self.page = ffi.NULL
        with segment.host_errors(self._path):
            self.page = self._map()

    def close(self, unlink: bool) -> None:
        """Let go; with ``unlink``, and when no other writer holds it, remove the object."""
        lib.sp_wake_unmap(self.page)
        self.page = ffi.NULL
        segment.set_lock(self._fd, fcntl.F_UNLCK)
        if unlink and segment.set_lock(self._fd, fcntl.F_WRLCK):
            segment.unlink(self._fd, self._path)
        os.close(self._fd)
        self._fd = -1

    def close_in_child(self) -> None:
        """After fork: drop the child's descriptor and leave everything else to the parent."""
        os.close(self._fd)
        self._fd = -1

    def _open(self) -> int:
        for attempt in range(_TRIES_MAX):
            fd = segment.open_or_make(self._path)
            if fd is None:
                continue
            # A reader may hold any lock on it, so in the end we go on without ours: it only
            # decides who tidies up.
            locked = segment.set_lock(fd, fcntl.F_RDLCK) or attempt >= _TRIES_MAX // 2
            if locked and segment.has_name(fd, self._path):
                return fd
            os.close(fd)
        raise HostError(f"{self._path}: its name changed hands {_TRIES_MAX} times")

    def _map(self) -> Any:
        if os.fstat(self._fd).st_size < layout.WAKE_BYTES:
            segment.reserve_memory(self._fd, self._path, layout.WAKE_BYTES)
        page = lib.sp_wake_map(self._fd)
        if page == ffi.NULL:
            raise HostError(f"{self._path}: cannot be mapped: {os.strerror(ffi.errno)}")
        lib.sp_wake_format(page)
        return page
