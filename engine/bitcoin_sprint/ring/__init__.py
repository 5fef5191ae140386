"""Frames through shared memory: one writer, any number of readers, nobody waits for anybody.

``Writer.create`` makes a ring or takes over a dead writer's; ``Ring.attach(...).reader()`` reads
one. The protocol is in C (``native/ring.c``, ``native/include/sprint.h``), specified in
``docs/ring.md``.
"""

from bitcoin_sprint.ring.attached import Ring
from bitcoin_sprint.ring.frame import Frame
from bitcoin_sprint.ring.reader import Reader
from bitcoin_sprint.ring.reservation import Reservation
from bitcoin_sprint.ring.sizing import RingOptions, plan
from bitcoin_sprint.ring.writer import Writer

__all__ = ["Frame", "Reader", "Reservation", "Ring", "RingOptions", "Writer", "plan"]
