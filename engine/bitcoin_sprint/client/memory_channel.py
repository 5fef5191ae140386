"""From a stream to the rings behind it: shared memory, where subscriber and engine share a host."""

from __future__ import annotations

import logging
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bitcoin_sprint.errors import SprintError
from bitcoin_sprint.ring import Ring
from bitcoin_sprint.transports.handshake import Range, Welcome

_log = logging.getLogger(__name__)


class MemoryChannel:
    """The rings of the engine that welcomed a subscriber; made by ``Subscriber.memory_channel``.

    ``blocks`` and ``tx`` are shared, frames of theirs zero-copy: see ``bitcoin_sprint.ring``. No
    tier's policy holds there: a reader that is lapped loses what was overwritten, and is told.
    """

    def __init__(self, blocks: Ring, tx: Ring) -> None:
        self.blocks: Final = blocks
        self.tx: Final = tx

    @classmethod
    def offered_by(cls, welcome: Welcome | None) -> Self | None:
        """Attach to what a WELCOME offers; None, with a warning, where that can't be."""
        if welcome is None or not welcome.memory_instance:
            _log.warning("no memory channel is offered here: the standard relay goes on")
            return None
        try:
            return cls._attach(welcome)
        except (SprintError, ValueError) as error:  # a server may name what can be no instance
            _log.warning("no memory channel: %s; the standard relay goes on", error)
            return None

    @classmethod
    def _attach(cls, welcome: Welcome) -> Self:
        where = Path(welcome.memory_directory) if welcome.memory_directory else None
        instance = welcome.memory_instance
        blocks = Ring.attach(instance, "blocks", directory=where)
        try:
            tx = Ring.attach(instance, "tx", directory=where)
        except BaseException:
            blocks.close()
            raise
        channel = cls(blocks, tx)
        for ring, granted in ((blocks, welcome.blocks), (tx, welcome.tx)):
            if granted != Range() and ring.session != granted.session:
                channel.close()
                raise SprintError(f"instance {instance} of this host is another engine")
        return channel

    def close(self) -> None:
        """Detach. Frames that were delivered stay usable."""
        self.blocks.close()
        self.tx.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
