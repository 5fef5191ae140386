"""What killed processes of an instance left behind, found and removed: shared memory, sockets."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Final

_SHM_DIRECTORY: Final = Path("/dev/shm")
_FLOCK: Final = struct.Struct("hhqqi4x")
_WAKE: Final = ".wake"


def sweep(instance: str, directory: str = "") -> list[str]:
    """Remove what is left of ``instance`` and return the names removed.

    To be called by the supervisor once its processes are gone. An object whose write lock is
    held by anyone stays, and with it the wake flags that its readers use.
    ``directory``: the configured hugetlbfs folder, searched as well.
    """
    folders = [_SHM_DIRECTORY, *([Path(directory)] if directory else [])]
    found = [path for folder in folders for path in folder.glob(f"sprint.{instance}.*")]
    wakes = [path for path in found if path.name.endswith(_WAKE)]
    removed, held = [], False
    for path in found:
        if path in wakes:
            continue
        if _is_held(path):
            held = held or ".counters." not in path.name
        elif _remove(path):
            removed.append(path.name)
    if not held:
        removed += [path.name for path in wakes if _remove(path)]
    return removed


def sweep_sockets(instance: str, folder: str) -> list[str]:
    """Remove the tiers' Unix sockets in ``folder`` ("": none) that nobody listens on any more."""
    found = Path(folder).glob(f"{instance}.*.sock") if folder else ()
    return [path.name for path in found if _is_deserted(path) and _remove(path)]


def _is_deserted(path: Path) -> bool:
    if not path.is_socket():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _is_held(path: Path) -> bool:
    try:
        # Without waiting: anybody may have left a pipe under such a name.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # not ours to judge
    try:
        query = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, query)
    finally:
        os.close(descriptor)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True
