"""``sprint stat``: every counter and histogram of a running engine, out of shared memory."""

from __future__ import annotations

import argparse
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from bitcoin_sprint.control.commands import (
    Subparsers,
    add_command,
    add_instance_option,
    print_json,
)
from bitcoin_sprint.control.status import read_snapshot
from bitcoin_sprint.errors import NotRunningError
from bitcoin_sprint.metrics import CountersView, HistogramSnapshot, Snapshot

_PERCENTILES = (50.0, 90.0, 99.0, 99.9)


def add(commands: Subparsers) -> None:
    """Declare ``sprint stat``."""
    parser = add_command(
        commands,
        "stat",
        "counters and latency histograms of every process",
        "sprint stat ingest --watch 1",
        run,
    )
    add_instance_option(parser)
    parser.add_argument("process", nargs="*", help="these processes only (default: all)")
    parser.add_argument(
        "--watch", type=float, metavar="SECONDS", help="again and again, until Ctrl-C"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run ``sprint stat``; NotRunningError when the instance has no such counters."""
    figures = _figures(arguments)
    if arguments.watch is None:
        if arguments.json:
            print_json([_plain(each) for each in figures])
        else:
            Console().print(_table(figures))
        return 0
    interval_s = max(0.1, arguments.watch)
    if arguments.json:
        while True:
            print_json([_plain(each) for each in figures])
            time.sleep(interval_s)
            figures = _figures(arguments)
    with Live(_table(figures), auto_refresh=False) as live:
        while True:
            time.sleep(interval_s)
            live.update(_table(_figures(arguments)), refresh=True)


def _figures(arguments: argparse.Namespace) -> list[Snapshot]:
    names = arguments.process or CountersView.processes(arguments.instance)
    found = [read_snapshot(arguments.instance, name) for name in names]
    figures = [each for each in found if each is not None]
    if not figures:
        wanted = ", ".join(arguments.process) or "any process"
        raise NotRunningError(f"instance {arguments.instance} has no counters of {wanted}")
    return figures


def _plain(figures: Snapshot) -> dict[str, Any]:
    histograms = {name: _summary(each) for name, each in figures["histograms"].items()}
    labels = {key: text for key, text in figures["labels"].items() if not text.startswith("{")}
    return {**figures, "labels": labels, "histograms": histograms}


def _summary(histogram: HistogramSnapshot) -> dict[str, float]:
    summary: dict[str, float] = {"count": histogram.count, "min": histogram.min}
    summary |= {f"p{percent:g}": histogram.percentile(percent) for percent in _PERCENTILES}
    return summary | {"max": histogram.max, "mean": round(histogram.mean, 1)}


def _table(figures: list[Snapshot]) -> Table:
    table = Table("process", "figure", "value", box=None)
    for each in figures:
        process = each["process"] if each["alive"] else f"{each['process']} (dead)"
        for name, value in each["counters"].items():
            table.add_row(process, name, f"{value:,}")
        for name, histogram in each["histograms"].items():
            summary = _summary(histogram)
            text = "  ".join(f"{key} {value:,.0f}" for key, value in summary.items())
            table.add_row(process, name, text)
    return table
