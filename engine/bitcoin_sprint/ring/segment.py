"""Make, take over, lock and give up the files behind a ring. Who may write is decided by a lock.

A segment is a file in POSIX shared memory (or hugetlbfs). Its writer holds an open-file-description
write lock on it for life; the kernel drops the lock when the last descriptor goes, however the
process ended. Whoever takes the lock then compares the inode that it locked with the inode that has
the name, since the file may have been unlinked between opening and locking. A file is written by
nobody who does not hold its lock, so there is no moment in which two writers share a segment.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import logging
import os
import pwd
import stat
import struct
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from bitcoin_sprint.errors import HostError, WriterActive
from bitcoin_sprint.ring import layout

_log = logging.getLogger(__name__)

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, len, pid
_LOCK_TRIES_MAX = 16


def set_lock(fd: int, kind: int) -> bool:
    """Set (F_WRLCK, F_RDLCK) or drop (F_UNLCK) the lock without waiting; False: another has it."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
    except OSError as cause:
        if cause.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


@contextmanager
def host_errors(path: Path) -> Generator[None, None, None]:
    """Turn what the host refuses into a HostError that says what to do."""
    try:
        yield
    except PermissionError as cause:
        raise HostError(
            f"{path}: {cause.strerror}{_owner(path)}; remove it or run as its owner"
        ) from cause
    except OSError as cause:
        raise HostError(f"{path}: {cause.strerror}") from cause


def _owner(path: Path) -> str:
    try:
        return f", it belongs to {_user_name(path.lstat().st_uid)}"
    except OSError:
        return ""


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def other_owner(fd: int) -> str | None:
    """Whose the file is when it is not this process's; None when it is. Root may open anybody's."""
    uid = os.fstat(fd).st_uid
    return None if uid == os.geteuid() else _user_name(uid)


def open_locked(path: Path) -> int:
    """Open the file at ``path``, made empty if there is none, and hold its write lock.

    Returns its descriptor. Raises WriterActive when a living writer holds the lock, HostError.
    """
    with host_errors(path):
        for _ in range(_LOCK_TRIES_MAX):
            fd = open_or_make(path)
            if fd is None:
                continue
            try:
                if not set_lock(fd, fcntl.F_WRLCK):
                    _refuse_locked(fd, path)
                if has_name(fd, path):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
    raise HostError(f"{path}: its name changed hands {_LOCK_TRIES_MAX} times while it was opened")


def _refuse_locked(fd: int, path: Path) -> NoReturn:
    """Say who is in the way: a writer, or a reader that set a lock of its own."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    found, *_ = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
    if found == fcntl.F_RDLCK:
        raise HostError(f"{path}: a reader holds a lock on it; end that reader or remove the file")
    raise WriterActive(f"{path}: another living process writes this ring")


def open_or_make(path: Path) -> int | None:
    """A descriptor of the file at ``path``, made empty if there was none; None: it changed
    meanwhile."""
    # Without O_CREAT first: fs.protected_regular refuses O_CREAT on another user's file, even
    # root's.
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        pass
    else:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        raise HostError(f"{path}: not a regular file{_owner(path)}; remove it")
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return None


def has_name(fd: int, path: Path) -> bool:
    """Whether ``path`` still names the file open on ``fd``."""
    ours = os.fstat(fd)
    try:
        named = path.lstat()
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (named.st_dev, named.st_ino)


def replace(fd: int, path: Path) -> int:
    """Unlink the locked file ``fd`` and return a fresh, empty, locked one under its name.

    The caller keeps ``fd`` and closes it. Another writer that takes the name in between wins.
    """
    with host_errors(path):
        if has_name(fd, path):
            path.unlink()
    return open_locked(path)


def unlink(fd: int, path: Path) -> None:
    """Unlink ``path`` if it still names ``fd``."""
    with suppress(OSError):
        if has_name(fd, path):
            path.unlink()


def block_bytes(fd: int) -> int:
    """The unit in which the file system gives memory: a page, or a huge page."""
    return max(layout.PAGE_BYTES, os.fstat(fd).st_blksize)


def reserve_memory(fd: int, path: Path, wanted_bytes: int) -> int:
    """Take ``wanted_bytes`` (rounded up to the file system's block) of memory for the file, now.

    Returns the file's size. Raises HostError when there is not as much: at creation, rather than
    by a SIGBUS at some later frame. The file is empty again then. Nobody ever finds it with a size
    and without the memory: a reader that mapped it so would end by SIGBUS at its first look.
    """
    size = layout.round_up(wanted_bytes, block_bytes(fd))
    try:
        os.posix_fallocate(fd, 0, size)  # sets the size last, not before the memory is there
    except OSError as cause:
        with suppress(OSError):
            os.ftruncate(fd, 0)
        free = free_bytes(path.parent)
        raise HostError(
            f"{path}: {size / 2**20:.1f} MiB of shared memory wanted, {free / 2**20:.1f} MiB free "
            f"in {path.parent} ({cause.strerror}); make the rings smaller or {path.parent} bigger"
        ) from cause
    return size


def has_holes(fd: int) -> bool:
    """Whether the file is longer than the memory it has; touching it may then end in SIGBUS."""
    status = os.fstat(fd)
    return status.st_blocks * 512 < status.st_size


def free_bytes(directory: Path) -> int:
    """What the file system of ``directory`` has left."""
    with host_errors(directory):
        status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def set_access(fd: int, path: Path, mode: int, group: str | None) -> None:
    """Give the file its mode and group, whatever the umask."""
    with host_errors(path):
        if group is not None:
            try:
                os.fchown(fd, -1, grp.getgrnam(group).gr_gid)
            except KeyError:
                raise HostError(f"{path}: there is no group {group!r}") from None
        os.fchmod(fd, mode)
