"""How often ingest lets time pass: every few milliseconds while something waits, else seldom."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

BUSY_S: Final = 0.025
"""Between two ticks while a body is awaited, or a node's word waits for what it speaks of."""
IDLE_S: Final = 0.25
"""Between two ticks while nothing waits: enough for what is counted in seconds, and nearly free."""


class Pace:
    """When the next tick is due. One thread, that of the event loop."""

    def __init__(self) -> None:
        self._hurried = asyncio.Event()

    def hurry(self) -> None:
        """Something waits from now on: end an idle pause."""
        self._hurried.set()

    async def pause(self, *, busy: bool) -> None:
        """Return when the next tick is due; ``busy``: whether something waits already."""
        self._hurried.clear()
        if busy:
            await asyncio.sleep(BUSY_S)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_S):
                await self._hurried.wait()
