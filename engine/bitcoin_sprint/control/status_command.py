"""``sprint status``: the state of a running engine."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console
from rich.table import Table

from bitcoin_sprint.control.commands import (
    Subparsers,
    add_command,
    add_instance_option,
    print_json,
)
from bitcoin_sprint.control.status import read_status


def add(commands: Subparsers) -> None:
    """Declare ``sprint status``."""
    parser = add_command(
        commands,
        "status",
        "the state of a running engine: tiers, features, processes",
        "sprint status --instance main --json",
        run,
    )
    add_instance_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run ``sprint status``; NotRunningError when there is no such instance."""
    status = read_status(arguments.instance)
    if arguments.json:
        print_json(status)
        return 0
    _show(arguments.instance, status, Console())
    return 0


def _show(instance: str, status: dict[str, Any], console: Console) -> None:
    console.print(f"{instance} on {status['network']}, {status['placement']}")
    console.print("on: " + (", ".join(status["features"]) or "nothing optional"))
    tiers = Table("tier", "write deadline", "buffer", "strategy", "relay target", box=None)
    for tier in status["tiers"]:
        targets = tier["performanceTargets"]
        tiers.add_row(
            tier["tier"],
            tier["writeDeadline"],
            str(tier["blockBufferSize"]),
            targets["bufferStrategy"],
            targets["blockRelayLatency"],
        )
    console.print(tiers)
    processes = Table("process", "state", "pid", "restarts", "last beat", "memory", "cpu", box=None)
    for process in status["processes"]:
        age = process["heartbeat_age_s"]
        processes.add_row(
            process["role"],
            process["state"],
            str(process["pid"] or ""),
            str(process["restarts"]),
            "" if age is None else f"{age:.1f} s ago",
            f"{process['memory_bytes'] >> 20} MiB",
            f"{process['cpu_s']:.1f} s",
        )
    console.print(processes)
