"""What the engine costs while nothing happens: blocks every ten minutes, nobody spins.

Processor time of all its processes together, as the kernel accounts it, after they have settled.
"""

from __future__ import annotations

import time

from bench.daemon import daemon, processor_seconds
from bench.report import Effort, Report, Row, progress

_SETTLE_SECONDS = {Effort.FULL: 10.0, Effort.QUICK: 5.0, Effort.SMOKE: 0.5}
_SECONDS = {Effort.FULL: 300.0, Effort.QUICK: 60.0, Effort.SMOKE: 1.0}
_BOUND_PERCENT = 2.0


def run(effort: Effort) -> Report:
    """Measures one engine with all five tiers and a simulated node, which counts as well."""
    with daemon("idle", {"sim.interval": "10min", "control.wait": "block"}) as sprintd:
        time.sleep(_SETTLE_SECONDS[effort])
        progress(f"an idle engine for {_SECONDS[effort]:g} s")
        begun, before = time.monotonic(), processor_seconds(sprintd)
        time.sleep(_SECONDS[effort])
        after, span = processor_seconds(sprintd), time.monotonic() - begun
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
