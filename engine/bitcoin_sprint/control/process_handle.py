"""A process under a supervisor's hand: signalled and awaited by its pidfd, never by its number.

A pid can't be another's here. A process of ours that has died stays a zombie until this handle
reaps it; of an adopted one the handle was opened while it was proved to live (``adoption``). From
then on the pidfd means that process alone, whatever becomes of the number.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Final

_REAP_MAX: Final = 64
_awaited: set[int] = set()
"""Pids of the processes that some handle will reap."""


class ProcessHandle:
    """One running process. Belongs to the running asyncio loop."""

    def __init__(self, pid: int) -> None:
        """Take ``pid``, a child of ours or a process known to live. Raises ProcessLookupError."""
        self.pid: Final = pid
        self.exited: Final = asyncio.Event()
        self.exit_code: int | None = None
        """0 to 255, or a signal's number below 0; None while it runs, and of no child of ours."""
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(pid)
        self._loop.add_reader(self._pidfd, self._reap)
        _awaited.add(pid)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return not self.exited.is_set()

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        if self.exit_code is None:
            return "adopted, so its exit code is unknown"
        if self.exit_code < 0:
            return f"signal {signal.Signals(-self.exit_code).name}"
        return f"exit code {self.exit_code}"

    def send(self, number: signal.Signals) -> None:
        """Signal the process, if it still runs."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        """Ask it to stop."""
        self.send(signal.SIGTERM)

    def kill(self) -> None:
        """End the process at once."""
        self.send(signal.SIGKILL)

    async def ended_within(self, seconds: float) -> bool:
        """Wait for its end; whether it came in time."""
        try:
            async with asyncio.timeout(seconds):
                await self.exited.wait()
        except TimeoutError:
            return False
        return True

    def release(self) -> None:
        """Let go of the process; it is neither watched nor reaped any more."""
        if self.running:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self.exited.set()
            _awaited.discard(self.pid)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        try:
            status = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        except ChildProcessError:
            status = None  # adopted: whoever is its parent reaps it
        os.close(self._pidfd)
        _awaited.discard(self.pid)
        if status is not None:
            normal = status.si_code == os.CLD_EXITED
            self.exit_code = status.si_status if normal else -status.si_status
        self.exited.set()


def reap_unawaited() -> None:
    """Reap children of this process that have ended, as long as no handle awaits them.

    Stops at one that a handle is about to reap: those behind it come with the next call.
    """
    for _ in range(_REAP_MAX):
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in _awaited:
            return
        os.waitid(os.P_PID, ended.si_pid, os.WEXITED | os.WNOHANG)
