"""Where processes are born: ``python -m bitcoin_sprint.control.nursery <descriptor> <module>...``.

Started by a supervisor only. Loading an interpreter and its modules takes a few tenths of a second
of a core, a fork a few milliseconds: this process loads every room once and forks whenever it is
asked. It never runs any of them itself, so what a fork copies is one thread, no event loop, no
socket but its line, no lock, counter or random state of anybody's.

Design: it forks twice. The process between ends at once, and its child becomes the supervisor's,
which is a subreaper (prctl(2)): the supervisor gets exit codes, and the nursery's own death costs
nothing but another nursery. It ends when the supervisor closes the line.

On the line, both ways in turn: the role's name ended by a newline, with the process's own end of
its line to the supervisor; the pid as a 32-bit integer, or a negative errno.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import logging
import os
import signal
import socket
import struct
import sys
from typing import Final, NoReturn

from setproctitle import setproctitle, setthreadtitle

from bitcoin_sprint.control import child

REPLY: Final = struct.Struct("<i")
ROLE_BYTES_MAX: Final = 64


def main(arguments: list[str]) -> int:
    """Load the rooms, then fork on demand until the line closes; return the exit code."""
    descriptor, *modules = arguments
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # A hangup is the supervisor's business, also where all processes of a unit are sent one.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    setproctitle("sprintd: nursery")
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as error:
        print(f"sprintd: nursery: {error}", file=sys.stderr)
        return 1
    # What is loaded by now lives as long as any process: no collection touches, and so copies, the
    # pages that all of them share.
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(descriptor)) as line, contextlib.suppress(ConnectionError):
        os.set_inheritable(line.fileno(), False)
        while True:
            request, descriptors, _, _ = socket.recv_fds(line, ROLE_BYTES_MAX, 1)
            if not request:
                break
            (theirs,) = descriptors
            reply = _bear(request.decode().rstrip("\n"), theirs, line)
            os.close(theirs)
            line.sendall(REPLY.pack(reply))
    return 0


def _bear(role: str, descriptor: int, line: socket.socket) -> int:
    """Fork a process for ``role``; return its pid, or a negative errno.

    Returns once it is nobody's child but the supervisor's.
    """
    read, write = os.pipe()
    try:
        between = os.fork()
        if between == 0:
            _fork_again(role, descriptor, (line.fileno(), read), write)
        os.waitpid(between, 0)
        os.close(write)
        write = -1
        reply = os.read(read, REPLY.size)
    except OSError as error:
        return -(error.errno or errno.EAGAIN)
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)
    return int(REPLY.unpack(reply)[0]) if len(reply) == REPLY.size else -errno.ECHILD


def _fork_again(role: str, descriptor: int, ours: tuple[int, ...], write: int) -> NoReturn:
    """In the process between: fork, tell the pid, and be gone. ``ours``: the nursery's own."""
    try:
        pid = os.fork()
        if pid == 0:
            for each in (*ours, write):
                os.close(each)
            _live(role, descriptor)
        os.write(write, REPLY.pack(pid))
    except OSError as error:
        os.write(write, REPLY.pack(-(error.errno or errno.EAGAIN)))
    finally:
        os._exit(0)


def _live(role: str, descriptor: int) -> NoReturn:
    """In the new process: run the role to its end, as a process of its own name and group."""
    code = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        setproctitle(f"sprintd: {role}")
        setthreadtitle(role)
        code = child.main([role, str(descriptor)])
    finally:
        # The interpreter's own ways out belong to the nursery, whose frames are still below us.
        with contextlib.suppress(Exception):  # standard error may lead to nobody any more
            logging.shutdown()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
