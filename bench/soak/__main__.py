"""``python -m bench.soak [--short] [--json]``: hours' worth of chain, and does anything grow by it.

The simulated node mines and announces as fast as its peers take it; every tier has subscribers that
follow, come and go, and never read; the rings have readers that attach, detach and are lapped. Once
every bounded memory has filled up, six hours' worth of mainnet (36 blocks, seven transactions a
second) go by while each process is sampled once a second. Ends with 1 where memory, descriptors,
threads or shared memory of any grow, and names it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

from bench.soak.engine import Engine, EngineFailed
from bench.soak.judge import Verdict, judge
from bench.soak.load import VISITORS
from bench.soak.sampling import FIGURES, Died, Sampler
from bitcoin_sprint.tiers import TIERS

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
_SAMPLE_S: Final = 1.0
_FULL_BLOCK_EVERY_S: Final = 7.0
_TABLE_WIDTH: Final = 132
_PATIENCE_S: Final = 1_200.0
# A relay has each visitor's descriptor, streams and ZeroMQ, and one that is just closing beside it.
_SLACKS: Final = {("descriptors", "relay"): 4 * VISITORS, ("descriptors", "sprintd"): 1}
# The bounded memories are sized so that they are full when the warm-up is over. What a relay keeps
# of its last 4,096 frames of blocks, and ZeroMQ of its last 20,000 messages, would fill on and on.
_KEYS: Final = {
    "sim.reorg_every": 8,
    "ingest.peer_transactions_per_s": 1_000_000,
    "ring.blocks_arena": "32MiB",
    "ring.tx_arena": "8MiB",
    "ring.tx_slots": 8_192,
    "relay.zmq_high_water_mark": 1_000,
    **{f"relay.tiers.{tier}.buffer_frames": 128 for tier in TIERS},
}


class Plan(NamedTuple):
    """How much goes by: at least so much before anything is judged, then at least so much more."""

    keys: dict[str, object]
    warm: dict[str, float]
    judged: dict[str, float]


LONG: Final = Plan(
    {
        "sim.transactions_min": 3_000,
        "sim.transactions_max": 4_200,
        "ingest.transactions_remembered": 50_000,
    },
    {"seconds": 30, "blocks": 45, "transactions": 80_000},
    {"seconds": 120, "blocks": 36, "transactions": 6 * 3_600 * 7, "reorgs": 3},
)
SHORT: Final = Plan(
    {
        "sim.transactions_min": 400,
        "sim.transactions_max": 600,
        "ingest.transactions_remembered": 10_000,
    },
    {"seconds": 15, "blocks": 80, "transactions": 15_000},
    {"seconds": 24, "blocks": 36, "transactions": 15_000, "reorgs": 2},
)


def main(arguments: list[str] | None = None) -> int:
    """Run the soak; 0 where everything is flat, 1 where something grows or died."""
    parser = argparse.ArgumentParser(prog="bench.soak", description=__doc__)
    parser.add_argument("--short", action="store_true", help="within a minute, smaller blocks")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        verdicts, done = run(SHORT if options.short else LONG)
    except (Died, EngineFailed, TimeoutError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    done["wall_seconds"] = round(time.monotonic() - began, 1)
    growing = [f"{each.subject}: {each.figure}" for each in verdicts if each.grows]
    idle = [name for name, count in done["load"].items() if not count]
    if done["load"].get("failed"):
        idle.append("a thread of it failed")
    if options.json:
        rows = [each._asdict() for each in verdicts]
        print(json.dumps({"flat": not growing, "growing": growing, "done": done, "rows": rows}))
    else:
        console = Console()
        console.width = max(console.width, _TABLE_WIDTH)
        console.print(_table(verdicts, done))
    for what, names in (("grows", growing), ("the load did not do its part", idle)):
        if names:
            print(f"soak: {what}: {', '.join(names)}", file=sys.stderr)
    return 1 if growing or idle else 0


def run(plan: Plan) -> tuple[list[Verdict], dict[str, Any]]:
    """Soak an engine; return the verdicts and what went by. Raises Died, EngineFailed."""
    with (
        tempfile.TemporaryDirectory(prefix="bitcoin-sprint-soak-") as folder,
        Engine(Path(folder), {**_KEYS, **plan.keys}) as engine,
        _loaded(engine) as load,
    ):
        sampler = Sampler(engine.instance, engine.pids)
        warm = _go_on(engine, sampler, plan.warm, "warming up")
        sampler.begin_anew()
        judged = _go_on(engine, sampler, plan.judged, "judged")
        if (now := engine.pids) != (then := sampler.pids):
            raise Died(f"processes were restarted: {then} became {now}")
    verdicts = judge(sampler.series(), _SLACKS)
    return verdicts, {"warm_up": warm, "judged": judged, "load": load}


def _go_on(
    engine: Engine, sampler: Sampler, least: dict[str, float], phase: str
) -> dict[str, float]:
    """Sample until at least ``least`` went by; return what did."""
    began = full_block_at = time.monotonic()
    start = _published(engine)
    while True:
        time.sleep(_SAMPLE_S)
        sampler.sample()
        now = time.monotonic()
        gone = {name: count - start[name] for name, count in _published(engine).items()}
        gone["seconds"] = round(now - began, 1)
        if sys.stderr.isatty():
            print(f"\rsoak: {phase}: {gone} of {least}\033[K", end="", file=sys.stderr, flush=True)
        if all(gone[name] >= wanted for name, wanted in least.items()):
            return gone
        if now - began > _PATIENCE_S:
            raise TimeoutError(f"{phase}: only {gone} of {least}\n{engine.log}")
        if now - full_block_at > _FULL_BLOCK_EVERY_S:
            full_block_at = now
            engine.ask_full_block()


def _published(engine: Engine) -> dict[str, float]:
    ingest, sim = engine.counters("ingest"), engine.counters("sim")
    return {
        "blocks": ingest["blocks_published"],
        "transactions": ingest["transactions_published"],
        "reorgs": sim["reorgs"],
    }


@contextmanager
def _loaded(engine: Engine) -> Iterator[dict[str, int]]:
    """Readers and subscribers while it lasts; what they did, once it is over."""
    order = json.dumps({"instance": engine.instance, "tiers": engine.tiers})
    done: dict[str, int] = {}
    with subprocess.Popen(
        [sys.executable, "-m", "bench.soak.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(order + "\n")
            process.stdin.flush()
            if process.stdout.readline() != "ready\n":
                raise EngineFailed("the load did not start")
            yield done
            process.stdin.close()
            done.update(json.loads(process.stdout.readline() or '{"failed": 1}'))
        finally:
            process.kill()


def _table(verdicts: list[Verdict], done: dict[str, Any]) -> Table:
    judged = done["judged"]
    table = Table(
        title=f"{judged['blocks']:,.0f} blocks, {judged['transactions']:,.0f} transactions and "
        f"{judged['reorgs']:.0f} reorgs in {judged['seconds']:.0f} s, "
        f"after {done['warm_up']['seconds']:.0f} s of warm-up",
        caption=f"{done['wall_seconds']:.0f} s in all; load: "
        + ", ".join(f"{name} {count:,}" for name, count in done["load"].items()),
    )
    for heading in ("process", "figure"):
        table.add_column(heading, no_wrap=True)
    for heading in ("plateau", "highest", "growth", "bound"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("over time", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for each in verdicts:
        shown = (
            _count if each.figure in FIGURES[1:] else _mib  # memory and shared memory in bytes
        )
        table.add_row(
            each.subject,
            each.figure,
            *(shown(value) for value in (each.plateau, each.highest, each.growth, each.bound)),
            each.sparkline,
            "[red]GROWS[/]" if each.grows else "flat",
        )
    return table


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _mib(value: float) -> str:
    return f"{value / (1 << 20):,.2f} MiB"


if __name__ == "__main__":
    sys.exit(main())
