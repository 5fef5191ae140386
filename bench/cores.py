"""Which cores a measurement runs on."""

from __future__ import annotations

import os
import time
from pathlib import Path

_QUIET_SHARE = 0.2


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


def await_quiet(cores: tuple[int, int], seconds: float) -> float:
    """Waits until nothing else keeps the cores busy, at most ``seconds``; what share does still.

    Two spinning processes measure each other only while both run: whatever else is on their cores
    shows as milliseconds in their medians.
    """
    give_up = time.monotonic() + seconds
    while True:
        share = _busy_share(set(cores), 0.1)
        if share < _QUIET_SHARE or time.monotonic() > give_up:
            return share


def _busy_share(cores: set[int], seconds: float) -> float:
    """How busy the busiest of the cores is over that time, 0 to 1."""
    before = _idle_ticks(cores)
    time.sleep(seconds)
    after = _idle_ticks(cores)
    span = seconds * os.sysconf("SC_CLK_TCK")
    idle = min(after[core] - before[core] for core in cores)
    return max(0.0, 1 - idle / span)


def _idle_ticks(cores: set[int]) -> dict[int, int]:
    """Idle ticks by core, out of /proc/stat; waiting for a disk is idle."""
    ticks = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu" and int(name[3:]) in cores:
            ticks[int(name[3:])] = int(fields[3]) + int(fields[4])
    return ticks
