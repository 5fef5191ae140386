"""``sprint stat``: every counter and histogram of a running engine, out of shared memory, live."""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.segment import SegmentLines
from rich.text import Text

from bitcoin_sprint.control.commands import (
    Cell,
    Subparsers,
    add_command,
    add_instance_option,
    print_json,
    real_number,
    screen,
    table,
)
from bitcoin_sprint.errors import HostError, NotRunningError, SprintError
from bitcoin_sprint.metrics import CountersView, HistogramSnapshot, Snapshot

_PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
_INTERVAL_S_MIN: Final = 0.1
_INTERVAL_S_MAX: Final = 3_600.0
_LEVELS: Final = frozenset(
    {
        "attempts",
        "bodies_wanted",
        "buffer_frames",
        "buffer_used_frames",
        "connected_height",
        "headers_held",
        "pid",
        "since",
        "state",
        "subscribers",
        "tip_height",
        "up",
        "zmq_topics_wanted",
    }
)
"""Figures that are set, not counted: they have no rate."""


def add(commands: Subparsers) -> None:
    """Declare ``sprint stat``."""
    parser = add_command(
        commands,
        "stat",
        "counters, rates and latency histograms of every process, live",
        "sprint stat 'relay-*' --name 'frames_*' --once",
        run,
    )
    add_instance_option(parser)
    parser.add_argument(
        "process", nargs="*", help="these processes only, * and ? stand for others (default: all)"
    )
    parser.add_argument("--name", metavar="PATTERN", help="figures of such names only, likewise")
    parser.add_argument("--once", action="store_true", help="one look, without rates")
    parser.add_argument(
        "--interval",
        type=_seconds,
        default=1.0,
        metavar="SECONDS",
        help="time between two looks (default: 1)",
    )


def _seconds(text: str) -> float:
    """Return a time between looks, for argparse."""
    seconds = real_number(text)
    if not math.isfinite(seconds) or not _INTERVAL_S_MIN <= seconds <= _INTERVAL_S_MAX:
        raise argparse.ArgumentTypeError(
            f"{text!r}: must be {_INTERVAL_S_MIN:g} to {_INTERVAL_S_MAX:g}"
        )
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Run ``sprint stat``; NotRunningError when the instance has no such counters (any more)."""
    looks = _looks(arguments)
    if arguments.json:
        for look in looks:
            for each in look:
                print_json(each)
        return 0
    console = screen()
    if arguments.once or not sys.stdout.isatty():
        for look in looks:
            console.print(_drawn(look, console))
        return 0
    with Live(console=console, auto_refresh=False) as live:
        for look in looks:
            live.update(_fitted(_drawn(look, console), console), refresh=True)
    return 0


def _looks(arguments: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """Look again and again; each look has what ``--json`` gives of every process."""
    before: dict[str, Snapshot] = {}
    began = last = time.monotonic()
    for number in itertools.count(1):
        now = time.monotonic()
        figures = _figures(arguments)
        yield [
            _plain(each, before.get(each["process"]), now - last, arguments.name)
            for each in figures
        ]
        if arguments.once:
            return
        before, last = {each["process"]: each for each in figures}, now
        time.sleep(max(0.0, began + number * arguments.interval - time.monotonic()))


def _figures(arguments: argparse.Namespace) -> list[Snapshot]:
    """Return the figures of the processes asked for. One that can't be read is told, and passed
    over as long as there are others."""
    there = CountersView.processes(arguments.instance)
    wanted = arguments.process or ["*"]
    names = [name for name in there if any(fnmatch.fnmatchcase(name, each) for each in wanted)]
    figures: list[Snapshot] = []
    unread: list[SprintError] = []
    for name in names:
        try:
            view = CountersView.attach(arguments.instance, name)
            try:
                figures.append(view.snapshot())
            finally:
                view.close()
        except SprintError as error:
            unread.append(error)
    if not any(each["alive"] for each in figures):
        refused = [error for error in unread if isinstance(error, HostError)]
        raise refused[0] if refused else _nobody(arguments, there, names)
    for reason in unread:
        if not isinstance(reason, NotRunningError):  # else it ended between two looks of ours
            print(f"sprint: {reason}", file=sys.stderr)
    return figures


def _nobody(arguments: argparse.Namespace, there: list[str], names: list[str]) -> NotRunningError:
    instance = arguments.instance
    if not there:
        return NotRunningError(f"instance {instance} does not run: it has no counters")
    if not names:
        wanted = ", ".join(arguments.process)
        return NotRunningError(f"instance {instance} has no {wanted}, but {', '.join(there)}")
    return NotRunningError(
        f"instance {instance} does not run: of {', '.join(names)} only counters are left"
    )


def _plain(
    now: Snapshot, before: Snapshot | None, seconds: float, pattern: str | None
) -> dict[str, Any]:
    """Return a process's figures; with their rates a second where this is not the first look."""
    if before is not None and (before["started"] != now["started"] or seconds <= 0):
        before = None  # another process by now
    counters = {n: v for n, v in now["counters"].items() if _matches(n, pattern)}
    shown: dict[str, Any] = {
        "time_ns": time.time_ns(),
        "process": now["process"],
        "pid": now["pid"],
        "alive": now["alive"],
        "started": now["started"],
        "heartbeat": now["heartbeat"],
        "labels": {key: text for key, text in now["labels"].items() if not text.startswith("{")},
        "counters": counters,
        "histograms": {
            name: _summary(each)
            for name, each in now["histograms"].items()
            if _matches(name, pattern)
        },
    }
    if before is not None:
        then = before["counters"]
        shown["rates"] = {
            name: round(max(0, value - then.get(name, 0)) / seconds, 1)
            for name, value in counters.items()
            if name.rpartition(".")[2] not in _LEVELS
        }
        shown["interval_histograms"] = {
            name: _summary(each.since(before["histograms"][name]))
            for name, each in now["histograms"].items()
            if name in before["histograms"] and _matches(name, pattern)
        }
    return shown


def _matches(name: str, pattern: str | None) -> bool:
    return pattern is None or fnmatch.fnmatchcase(name, pattern)


def _summary(histogram: HistogramSnapshot) -> dict[str, float]:
    summary: dict[str, float] = {"count": histogram.count, "min": histogram.min}
    summary |= {f"p{percent:g}": histogram.percentile(percent) for percent in _PERCENTILES}
    return summary | {"max": histogram.max, "mean": round(histogram.mean, 1)}


def _drawn(look: Sequence[dict[str, Any]], console: Console) -> Group:
    with_rates = any("rates" in each for each in look)
    counts: list[list[Cell]] = []
    times: list[list[Cell]] = []
    for each in look:
        process = each["process"] if each["alive"] else f"{each['process']} (dead)"
        for name, value in each["counters"].items():
            rate = each.get("rates", {}).get(name)
            counts.append([f"{process} {name}", value, *([rate or None] if with_rates else [])])
        for name, summary in each.get("interval_histograms", each["histograms"]).items():
            times.append([f"{process} {name}", *summary.values()])
    headings = ["figure", "value", *(["a second"] if with_rates else [])]
    parts = [table(console, headings, counts)] if counts else []
    if times:
        measured = "in the last interval" if with_rates else "since the start"
        columns = ["count", "min", *(f"p{percent:g}" for percent in _PERCENTILES), "max", "mean"]
        parts.append(table(console, [measured, *columns], times))
    return Group(*parts)


def _fitted(drawn: Group, console: Console) -> Group:
    """Return as much as the terminal has lines for, and below how to see the rest."""
    lines = console.render_lines(drawn, pad=False)
    if len(lines) <= console.height:
        return drawn
    hint = "… {} more lines: name processes, or --name PATTERN, or --once"
    hint_lines = len(Text(hint.format(len(lines))).wrap(console, console.width))
    room = max(0, console.height - hint_lines)
    rest = Text(hint.format(len(lines) - room), style="dim")
    return Group(SegmentLines(lines[:room], new_lines=True), rest)
