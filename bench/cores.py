"""Which cores a measurement runs on."""

from __future__ import annotations

import os
from pathlib import Path


def two_cores() -> tuple[int, int]:
    """A writer's and a reader's core: on different physical cores where there are two, else any.

    The highest numbers, since the lowest serve most interrupts. On a machine with one core both
    are the same.
    """
    allowed = sorted(os.sched_getaffinity(0), reverse=True)
    writer = allowed[0]
    siblings = _siblings(writer)
    others = [core for core in allowed[1:] if core not in siblings] or allowed[1:] or [writer]
    return writer, others[0]


def share_a_physical_core(first: int, second: int) -> bool:
    """Whether the two are threads of one core, as far as this machine tells."""
    return second in _siblings(first)


def pin(core: int) -> None:
    """Keeps the calling thread, and what it starts from now on, on one core."""
    os.sched_setaffinity(0, {core})


def _siblings(core: int) -> set[int]:
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    try:
        text = path.read_text().strip()
    except OSError:
        return {core}
    siblings: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        siblings.update(range(int(first), int(last or first) + 1))
    return siblings
