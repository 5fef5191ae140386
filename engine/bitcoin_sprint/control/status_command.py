"""``sprint status``: the state of a running engine."""

from __future__ import annotations

import argparse
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from bitcoin_sprint.control.commands import (
    Subparsers,
    add_command,
    add_instance_option,
    print_json,
    screen,
    table,
)
from bitcoin_sprint.control.status import read_status

_WELL: Final = frozenset({"ready", "done"})
_UNSURE: Final = frozenset({"starting", "connecting", "syncing", "silent", "no rpc", "no zmq",
                            "waiting", "unsupervised", "stopped"})  # fmt: skip


def add(commands: Subparsers) -> None:
    """Declare ``sprint status``."""
    parser = add_command(
        commands,
        "status",
        "the state of a running engine: tiers, sources, processes",
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
    show(arguments.instance, status, screen())
    return 0


def show(instance: str, status: dict[str, Any], console: Console) -> None:
    """Draw a status as ``read_status`` gives it."""
    console.print(Text.assemble((instance, "bold"), f" on {status['network']}"))
    if not status["supervised"]:
        console.print(
            "sprintd is dead; its processes serve on, and nobody restarts them. Start it again: it "
            "takes them over.",
            style="red",
        )
    if "features" in status:
        console.print("on: " + (", ".join(status["features"]) or "nothing optional"))
    for headings, rows in (_tiers(status), _sources(status), _processes(status)):
        if rows:
            console.print()
            console.print(table(console, headings, rows))
    reasons = _reasons(status)
    if reasons:
        console.print()
    for line in reasons:
        console.print(line)


def _tiers(status: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    headings = ["tier", "target", "deadline", "buffer", "used", "subscribers", "sent", "missed",
                "overwritten", "p50 µs", "p99 µs"]  # fmt: skip
    relays = {relay["tier"]: relay for relay in status["relays"]}
    rows = []
    for tier in status.get("tiers") or [{"tier": name} for name in relays]:
        relay = relays.get(tier["tier"], {})
        times = relay.get("relay_us", {})
        used = relay.get("buffer_utilisation")
        rows.append(
            [
                tier["tier"],
                tier.get("performanceTargets", {}).get("blockRelayLatency", "").partition(" ")[0],
                tier.get("writeDeadline", ""),
                tier.get("blockBufferSize"),
                None if used is None else f"{used:.0%}",
                relay.get("subscribers"),
                relay.get("frames_sent"),
                relay.get("frames_missed"),
                relay.get("frames_overwritten"),
                times.get("p50"),
                times.get("p99"),
            ]
        )
    return headings, rows


def _sources(status: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    headings = ["source", "state", "for", "tries", "episodes", "headers", "blocks", "txs"]
    rows = [
        [
            source["name"],
            _coloured(source["state"]),
            _duration(source["since_s"]),
            source["attempts"],
            source["episodes"],
            source["headers_won"],
            source["blocks_won"],
            source["transactions_won"],
        ]
        for source in status["sources"]
    ]
    return headings, rows


def _processes(status: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    headings = ["process", "state", "pid", "restarts", "beat", "memory", "cpu", "core", "waits",
                "nice"]  # fmt: skip
    rows = []
    for process in status["processes"]:
        age, seat = process["heartbeat_age_s"], process["placement"] or {}
        core = seat.get("core")
        rows.append(
            [
                process["role"],
                _coloured(process["state"]),
                str(process["pid"] or ""),
                process["restarts"],
                "" if age is None else f"{age:.1f} s ago",
                f"{process['memory_bytes'] >> 20} MiB",
                f"{process['cpu_s']:.1f} s",
                str(seat.get("cpus", "") if core is None else core),
                seat.get("waits", ""),
                seat.get("nice"),
            ]
        )
    return headings, rows


def _reasons(status: dict[str, Any]) -> list[str]:
    """Say why the hot processes sit as they do: a line a reason, with those that it is about."""
    about: dict[str, list[str]] = {}
    for process in status["processes"]:
        seat = process["placement"] or {}
        for field, reason in seat.get("reasons", {}).items():
            if not seat["hot"]:
                continue
            said = {
                "waits": seat["waits"],
                "core": "not pinned" if seat["core"] is None else f"on core {seat['core']}",
                "memory_locked": "locked" if seat["memory_locked"] else "memory not locked",
            }.get(field, field.replace("_", " "))
            about.setdefault(f"{said} ({reason})", []).append(process["role"])
    return [f"{', '.join(roles)}: {reason}" for reason, roles in about.items()]


def _coloured(state: str) -> Text:
    style = "green" if state in _WELL else "yellow" if state in _UNSURE else "red"
    return Text(state, style=style)


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
