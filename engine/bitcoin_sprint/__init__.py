"""Bitcoin Sprint: blocks and transactions, proved, in shared memory and on the wire.

What a user's program needs is here by name and loaded when first asked for: the engine's own
processes do not load the rooms of others.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from bitcoin_sprint.client import AsyncSubscriber, Subscriber
    from bitcoin_sprint.ring import Ring

__all__ = ["AsyncSubscriber", "Ring", "Subscriber", "include_directory"]

_ROOMS: Final = {
    "AsyncSubscriber": "bitcoin_sprint.client",
    "Ring": "bitcoin_sprint.ring",
    "Subscriber": "bitcoin_sprint.client",
}


def include_directory() -> str:
    """Return the folder of ``sprint.h``, the ring's reader for C and C++: ``cc -I`` it."""
    return str(Path(__file__).resolve().parent / "include")


def __getattr__(name: str) -> Any:
    room = _ROOMS.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(room), name)
