"""Whether a process still beats: its heartbeat, watched by somebody who may have slept himself.

A beat is a change of the process's heartbeat word. What counts is not the clock but how long *we*
watched in vain: between two looks at most twice the usual pause counts, so that a suspended host,
a frozen container or a starved supervisor never makes its processes look dead.
"""

from __future__ import annotations

from bitcoin_sprint.errors import SprintError
from bitcoin_sprint.metrics import CountersView


class Pulse:
    """The heartbeat of one process, from when it serves until it ends. Closed by ``close``."""

    def __init__(self, instance: str, role: str, pid: int) -> None:
        self._instance = instance
        self._role = role
        self._pid = pid
        self._view: CountersView | None = None
        self._beat = 0
        self._looked_at = 0.0
        self.silent_s = 0.0
        """For how long it was watched without a beat; 0 while it has none to beat in."""

    def look(self, now_s: float, pause_s: float) -> None:
        """Look once more; ``pause_s`` is the usual time between two looks."""
        since = min(now_s - self._looked_at, 2 * pause_s)
        self._looked_at = now_s
        beat = self._read()
        if beat != self._beat or not beat:
            self._beat = beat
            self.silent_s = 0.0
        else:
            self.silent_s += since

    def close(self) -> None:
        """Let go of the counters. May be called again."""
        if self._view is not None:
            self._view.close()
            self._view = None

    def _read(self) -> int:
        """Return the last heartbeat; 0 when the process has no counters to tell."""
        try:
            if self._view is None:
                self._view = CountersView.attach(self._instance, self._role)
            pid, beat = self._view.last_heartbeat()
        except (SprintError, OSError):
            return 0  # there are none yet, or somebody damaged them
        if pid != self._pid:
            self.close()  # those of a predecessor
            return 0
        return beat
