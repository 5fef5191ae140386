"""A host that refuses: runs a command without rights that it may have here.

``python tests/refusing_host.py [--no-pinning] [--no-locking] COMMAND ...``. Without pinning, the
kernel answers sched_setaffinity with EPERM (a seccomp filter, as containers have). Without
locking, RLIMIT_MEMLOCK is 0 and neither CAP_IPC_LOCK nor CAP_SYS_NICE is left.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys

_PR_CAPBSET_DROP = 24
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_CAP_IPC_LOCK, _CAP_SYS_NICE, _CAP_SYS_RESOURCE = 14, 23, 24
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_SCHED_SETAFFINITY = {"x86_64": 203, "aarch64": 122}

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse_pinning() -> None:
    """From now on sched_setaffinity fails with EPERM, here and in every process started here."""
    instructions = b"".join(
        struct.pack("HBBI", code, if_true, if_false, operand)
        for code, if_true, if_false, operand in (
            (_LOAD_WORD, 0, 0, 0),
            (_JUMP_IF_EQUAL, 0, 1, _SCHED_SETAFFINITY[platform.machine()]),
            (_RETURN, 0, 0, _ERRNO | errno.EPERM),
            (_RETURN, 0, 0, _ALLOW),
        )
    )
    program = _Program(len(instructions) // 8, instructions)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


def refuse_locking() -> None:
    """From the next exec on, no memory can be locked and no weight raised."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    if os.geteuid() == 0:
        for capability in (_CAP_IPC_LOCK, _CAP_SYS_NICE, _CAP_SYS_RESOURCE):
            _prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def _prctl(*arguments: object) -> None:
    if _libc.prctl(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({arguments[0]})")


if __name__ == "__main__":
    command = sys.argv[1:]
    while command[0].startswith("--"):
        {"--no-pinning": refuse_pinning, "--no-locking": refuse_locking}[command.pop(0)]()
    os.execvp(command[0], command)
