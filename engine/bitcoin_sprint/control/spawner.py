"""Starting processes: the supervisor's side of the nursery.

A nursery is made when it is first needed and again whenever it has died or does not answer; it is
a program of its own (no fork of a process with an event loop), and loads while we do other work.

A nursery may be killed when it has forked and not said so. What it bore then has no order yet and
a line of its own, which nobody else is given: it ends when we close that.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from typing import Final, Protocol

from bitcoin_sprint.control.nursery import REPLY
from bitcoin_sprint.control.process_handle import ProcessHandle, reap_unawaited
from bitcoin_sprint.errors import HostError

_PR_SET_CHILD_SUBREAPER: Final = 36
_ATTEMPTS: Final = 2
_GOODBYE_S: Final = 0.5
_FORK_S: Final = 3.0
"""A nursery that has loaded and takes longer than that to fork hangs; to load may take its time."""


class Spawner(Protocol):
    """Starts processes of the engine."""

    def prepare(self) -> None:
        """Make ready for the first, in the background."""

    async def spawn(self, role: str) -> tuple[ProcessHandle, socket.socket]:
        """Start a process for ``role``; return it and our end of its line, the caller's to close.

        Raises HostError when the host refuses another, OSError.
        """

    def tidy(self) -> None:
        """Reap whoever ended and is awaited by nobody. To be called now and then."""

    async def close(self) -> None:
        """Let go of what starting takes."""


class NurserySpawner:
    """Starts processes out of a nursery. Belongs to the running asyncio loop."""

    def __init__(self, modules: Iterable[str]) -> None:
        """``modules``: what the nursery loads before the first process is asked for."""
        self._modules = list(modules)
        self._nursery: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._turn = asyncio.Lock()
        self._wanted = True
        self._loaded = False

    def prepare(self) -> None:
        """Have a nursery load in the background. Raises HostError."""
        if self._line is not None:
            return
        _become_subreaper()
        try:
            self._start_nursery()
        except OSError as error:
            raise HostError(f"no process can be started: {error.strerror}") from error

    def _start_nursery(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            self._nursery = subprocess.Popen(
                [
                    # -P: a file in the working directory must not pass for a module of ours.
                    *(sys.executable, "-P", "-m", "bitcoin_sprint.control.nursery"),
                    str(theirs.fileno()),
                    *self._modules,
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,
                # numpy's threads for linear algebra: nobody needs them, and forks none.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        self._line = ours

    async def spawn(self, role: str) -> tuple[ProcessHandle, socket.socket]:
        """Start a process; HostError when the host refuses another.

        Cancelled, it leaves no process behind that nobody knows of.
        """
        async with self._turn:
            self._wanted = True
            asking = asyncio.ensure_future(self._ask(role))
            try:
                pid, line = await asyncio.shield(asking)
            except asyncio.CancelledError:
                await self._undo(asking)
                raise
            try:
                return ProcessHandle(pid), line
            except OSError:
                line.close()  # it ends with it
                raise

    def tidy(self) -> None:
        """Reap whoever ended and is awaited by nobody: what a killed nursery was bearing, and (a
        subreaper and the first process of a container get them) other people's children."""
        if self._turn.locked():
            return  # a newborn is awaited by nobody yet
        if self._nursery is not None and self._nursery.poll() is not None:
            self._discard()
        reap_unawaited()

    async def close(self) -> None:
        """End the nursery."""
        nursery = self._nursery
        if self._line is not None:
            self._line.close()
            self._line = None
        if nursery is None:
            return
        self._nursery = None
        deadline = asyncio.get_running_loop().time() + _GOODBYE_S
        while nursery.poll() is None:
            if asyncio.get_running_loop().time() > deadline:
                nursery.kill()
            await asyncio.sleep(0.002)

    async def _undo(self, asking: asyncio.Future[tuple[int, socket.socket]]) -> None:
        """Await what the nursery is at, and end it: a birth, or a nursery that hangs."""
        self._wanted = False
        patience = asyncio.get_running_loop().call_later(_GOODBYE_S, self._kill_nursery)
        with contextlib.suppress(HostError, OSError):
            pid, line = await asking
            line.close()
            newborn = ProcessHandle(pid)
            newborn.kill()
            await newborn.exited.wait()
        patience.cancel()

    def _kill_nursery(self) -> None:
        if self._nursery is not None:
            self._nursery.kill()

    async def _ask(self, role: str) -> tuple[int, socket.socket]:
        """Return the pid of a new process and our end of its line."""
        for _ in range(_ATTEMPTS):
            self.prepare()
            ours, theirs = socket.socketpair()
            with theirs:
                reply = await self._exchange(role, theirs)
            if reply is not None and reply > 0:
                return reply, ours
            ours.close()
            if reply is not None:
                text = f"{role}: the host allows no other process: {os.strerror(-reply)}"
                raise HostError(text)
            self._discard()
            if not self._wanted:
                raise HostError(f"{role}: is not wanted any more")
        raise HostError(f"{role}: the nursery, which starts processes, dies before it can")

    async def _exchange(self, role: str, line: socket.socket) -> int | None:
        """Return the nursery's reply; None when it died or hangs."""
        assert self._line is not None
        ours, loop = self._line, asyncio.get_running_loop()
        received = b""
        with contextlib.suppress(OSError):
            socket.send_fds(ours, [f"{role}\n".encode()], [line.fileno()])
            async with asyncio.timeout(_FORK_S if self._loaded else None):
                while len(received) < REPLY.size:
                    piece = await loop.sock_recv(ours, REPLY.size - len(received))
                    if not piece:
                        return None
                    received += piece
            self._loaded = True
            return int(REPLY.unpack(received)[0])
        return None

    def _discard(self) -> None:
        """Give up a nursery that died or hangs."""
        if self._nursery is not None:
            self._nursery.kill()
            self._nursery.wait()
        if self._line is not None:
            self._line.close()
        self._nursery = self._line = None
        self._loaded = False


def _become_subreaper() -> None:
    """Become the parent of every descendant whose own parent ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise HostError(f"cannot become a subreaper: {os.strerror(error)}")
