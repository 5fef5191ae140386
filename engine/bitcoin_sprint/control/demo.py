"""``sprint demo``: the whole engine on a network of its own, a subscriber in every tier.

Everything is real: the simulated node mines valid blocks and serves them by P2P, ingest proves and
publishes them, each tier's worker relays them over TCP. Only the instance is private (its name,
its folder, its ports), so that a demo disturbs nothing and leaves nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import signal
import socket
import tempfile
import time
from typing import Any

import uvloop
from rich.console import Console
from rich.live import Live
from rich.table import Table

from bitcoin_sprint.config import Config, load
from bitcoin_sprint.control import logs
from bitcoin_sprint.control.commands import Subparsers, add_command, print_json, real_number
from bitcoin_sprint.control.demo_figures import Figures, figures_of, read_figures
from bitcoin_sprint.control.status import read_snapshot
from bitcoin_sprint.control.supervisor import Supervisor
from bitcoin_sprint.errors import HostError

_DRAW_S = 0.5
_PORT_ATTEMPTS = 16
_TALLY_S = 0.3


def add(commands: Subparsers) -> None:
    """Declare ``sprint demo``."""
    parser = add_command(
        commands,
        "demo",
        "run the engine on its own simulated network, with a subscriber in every tier",
        "sprint demo --seconds 20 --json",
        run,
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        metavar="N",
        help="serve for N seconds, start-up not counted (default: until Ctrl-C)",
    )
    parser.add_argument(
        "--interval", default="300ms", metavar="TIME", help="mean time between blocks (300ms)"
    )
    parser.add_argument("--log-level", default="warning", metavar="LEVEL")


def _seconds(text: str) -> float:
    """Return a time to run, for argparse."""
    seconds = real_number(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: must be more than 0")
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Run ``sprint demo``; with ``--json`` its last line of output is one JSON object."""
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="bitcoin-sprint-demo-") as folder,
        contextlib.ExitStack() as claims,
    ):
        config = demo_config(folder, arguments.interval, arguments.log_level, claims)
        logs.configure(config.log, "demo")
        figures = uvloop.run(_run(config, arguments.seconds, draw=not arguments.json))
    if arguments.json:
        print_json(figures.plain())
    else:
        Console().print(figures.sentence(time.monotonic() - began))
    return 0


def demo_config(folder: str, interval: str, log_level: str, claims: contextlib.ExitStack) -> Config:
    """Return the configuration of a private instance: the default ports, others where taken.

    The ports are ours until ``claims`` is closed.
    """
    defaults = load()
    wanted = {
        f"relay.tiers.{policy.name}.{field}": getattr(policy, field)
        for policy in defaults.running_tiers
        for field in ("stream_port", "zmq_port")
    } | {"sim.port": defaults.sim.port}
    overrides: dict[str, object] = {
        "instance": f"demo-{os.getpid()}",
        "network": "regtest",
        "data_dir": folder,
        "sim.enabled": True,
        "sim.interval": interval,
        "sim.transactions_min": 20,
        "sim.transactions_max": 200,
        "sim.reorg_every": 25,
        "sim.seed": time.time_ns() % (1 << 32),
        "ring.blocks_arena": "64MiB",
        "ring.tx_arena": "32MiB",
        "ring.mode": "0600",
        "log.level": log_level,
        **free_ports(wanted, claims),
    }
    return load(None, overrides)


def free_ports(wanted: dict[str, int], claims: contextlib.ExitStack) -> dict[str, int]:
    """Return ``wanted`` with each port that is taken on loopback replaced by a free one.

    A relay listens only seconds later. Until ``claims`` is closed nobody else is given a port
    that was returned here: two demos started together would otherwise choose the same ones.
    """
    ports: dict[str, int] = {}
    with contextlib.ExitStack() as listeners:
        for key, port in wanted.items():
            for candidate in (port, *[0] * _PORT_ATTEMPTS):
                listener = _listener(candidate)
                if listener is None:
                    continue
                listeners.callback(listener.close)
                found = int(listener.getsockname()[1])
                if _claim(found, claims):
                    ports[key] = found
                    break
            else:
                raise HostError("no free port on loopback")
    return ports


def _claim(port: int, claims: contextlib.ExitStack) -> bool:
    """Claim a port among the demos of this host; False when another has it.

    A name in the abstract namespace of Unix sockets belongs to one socket, and goes with it.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0bitcoin-sprint-port-{port}")
    except OSError:
        claim.close()
        return False
    claims.callback(claim.close)
    return True


def _listener(port: int) -> socket.socket | None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(1)
    except OSError:
        listener.close()
        return None
    return listener


async def _run(config: Config, seconds: float | None, *, draw: bool) -> Figures:
    """Run the engine until it served for ``seconds``, or a signal; return what was seen."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    supervisor = Supervisor(config, extra_roles=["demo"])
    starting = asyncio.create_task(supervisor.start())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return Figures.none(config)
        await starting
        if seconds is not None:
            loop.call_later(seconds, stop.set)
        if draw:
            await _draw(config, stopped)
        else:
            await stopped
        # The relays add up a few times a second: what the subscribers lack by now, they have then.
        seen = read_snapshot(config.instance, "demo")
        await asyncio.sleep(_TALLY_S)
        return figures_of(config, seen)
    finally:
        stopped.cancel()
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await supervisor.stop()


async def _draw(config: Config, stopped: asyncio.Task[Any]) -> None:
    """Show the live table until told to stop."""
    began = time.monotonic()
    with Live(auto_refresh=False, transient=False) as live:
        while not stopped.done():
            live.update(table(read_figures(config), time.monotonic() - began), refresh=True)
            await asyncio.wait({stopped}, timeout=_DRAW_S)


def table(figures: Figures, seconds: float) -> Table:
    """Return the live table."""
    drawn = Table(
        title=f"Bitcoin Sprint on its own network, {seconds:.0f} s: {figures.blocks} blocks, "
        f"{figures.txs:,} transactions",
        caption="Ctrl-C stops",
    )
    drawn.add_column("tier")
    for heading in ("frames", "p50 µs", "p99 µs", "max µs", "missed", "overwritten", "gaps"):
        drawn.add_column(heading, justify="right")
    for name, tier in figures.tiers.items():
        drawn.add_row(
            name,
            f"{tier.frames:,}",
            f"{tier.p50_us:,.0f}",
            f"{tier.p99_us:,.0f}",
            f"{tier.max_us:,.0f}",
            f"{tier.missed:,}",
            f"{tier.overwritten:,}",
            f"{tier.gaps:,}",
        )
    return drawn
