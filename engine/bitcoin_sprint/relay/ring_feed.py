"""A worker's reader of one ring: attaches, follows it over the deaths of its writers, and fills the
window that all subscribers look into."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from bitcoin_sprint.errors import Closed, NotRunningError
from bitcoin_sprint.ring import Frame, Reader, Ring
from bitcoin_sprint.transports.window import Window

_log = logging.getLogger(__name__)


class RingFeed:
    """Follows ring ``name`` of ``instance``. Owned by one thread.

    A writer that dies leaves its segment to a successor, which goes on in it: nothing happens here.
    A segment that is given up says so; then the feed lets go and attaches to the fresh one, of
    which every frame is new to our subscribers.
    """

    def __init__(
        self, instance: str, name: str, window: Window, *, directory: Path | None = None
    ) -> None:
        self.name = name
        self.window = window
        self._instance = instance
        self._directory = directory
        self._ring: Ring | None = None
        self._reader: Reader | None = None
        self._attached_before = False

    @property
    def attached(self) -> bool:
        return self._reader is not None

    @property
    def ring(self) -> Ring:
        assert self._ring is not None, "not attached"
        return self._ring

    def try_attach(self) -> bool:
        """Attach if the ring exists. The first time, what is already in it fills the window as
        the past; later it is all news. Raises HostError, Corrupt."""
        try:
            ring = Ring.attach(self._instance, self.name, directory=self._directory)
        except NotRunningError:
            return False
        if ring.ended:
            ring.close()
            return False
        start = max(ring.oldest, ring.head + 1 - self.window.capacity)
        self._ring = ring
        self._reader = ring.reader(start)
        self.window.begin_session(ring.session, start)
        _log.info(
            "attached to ring %s",
            self.name,
            extra={"session": f"{ring.session:016x}", "head": ring.head, "oldest": start},
        )
        if not self._attached_before:
            while (frame := self.poll()) is not None:
                self.window.append(frame)
        self._attached_before = True
        return True

    def poll(self) -> Frame | None:
        """The ring's next frame, None when there is none yet, or no ring any more."""
        if self._reader is None:
            return None
        try:
            return self._reader.poll()
        except Closed:
            _log.warning("ring %s was given up by its writer", self.name)
            self.detach()
            return None

    def fileno(self) -> int:
        """A descriptor that becomes readable when frames are published."""
        assert self._reader is not None, "not attached"
        return self._reader.fileno()

    def hush(self) -> None:
        """Take the notification, so that the descriptor waits for the next."""
        if self._reader is not None:
            try:
                os.eventfd_read(self._reader.fileno())
            except BlockingIOError:
                return

    def detach(self) -> None:
        """Let go of the ring; frames of it that are still under way stay usable."""
        if self._reader is not None:
            self._reader.close()
        if self._ring is not None:
            self._ring.close()
        self._reader = None
        self._ring = None
