"""What the engine costs while nothing happens: blocks every ten minutes, nobody spins.

Processor time of all its processes together, as the kernel accounts it, after they have settled.
"""

from __future__ import annotations

import time

import psutil

from bench.daemon import daemon
from bench.report import Effort, Report, Row, progress

_SETTLE_SECONDS = {Effort.FULL: 10.0, Effort.QUICK: 5.0, Effort.SMOKE: 0.5}
_SECONDS = {Effort.FULL: 300.0, Effort.QUICK: 60.0, Effort.SMOKE: 1.0}
_BOUND_PERCENT = 2.0


def run(effort: Effort) -> Report:
    """Measures one engine with all five tiers and a simulated node, which counts as well."""
    with daemon("idle", {"sim.interval": "10min", "control.wait": "block"}) as sprintd:
        time.sleep(_SETTLE_SECONDS[effort])
        progress(f"an idle engine for {_SECONDS[effort]:g} s")
        begun, before = time.monotonic(), _processor_seconds(sprintd)
        time.sleep(_SECONDS[effort])
        after, span = _processor_seconds(sprintd), time.monotonic() - begun
    rows = [
        Row(
            name="idle engine, all processes",
            ours=100 * (sum(after.values()) - sum(before.values())) / span,
            unit="% of a core",
            peer="the bound that we set",
            theirs=_BOUND_PERCENT,
            target=1.0,
        )
    ]
    return Report("idle", rows)


def _processor_seconds(sprintd: psutil.Process) -> dict[int, float]:
    """User and system time so far, by pid, of the daemon and all that it started."""
    family = [sprintd, *sprintd.children(recursive=True)]
    return {each.pid: sum(each.cpu_times()[:2]) for each in family}
