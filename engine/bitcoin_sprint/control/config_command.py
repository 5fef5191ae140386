"""``sprint config show|check``: what the engine would run with, and why."""

from __future__ import annotations

import argparse
import sys

from rich.table import Table

from bitcoin_sprint.config import Loaded, render
from bitcoin_sprint.control.commands import Subparsers, add_command, print_json, screen
from bitcoin_sprint.control.options import add_config_options, loaded_config


def add(commands: Subparsers) -> None:
    """Declare ``sprint config``."""
    parser = add_command(
        commands,
        "config",
        "show the configuration with the origin of each value, or check it",
        "sprint config show --config sprint.toml",
        run,
    )
    parser.add_argument("action", choices=("show", "check"))
    add_config_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run ``sprint config``; what sprintd would refuse is a ConfigError, and in its words."""
    loaded = loaded_config(arguments)
    if arguments.action == "check":
        return _check(loaded, as_json=arguments.json)
    values = render(loaded.config)
    if arguments.json:
        print_json(
            {key: {"value": value, "from": loaded.sources[key]} for key, value in values.items()}
        )
        return 0
    table = Table("key", "value", "from", box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"  # whoever copies a value wants all of it
    for key, value in values.items():
        written = repr(value) if isinstance(value, str) else str(value)
        table.add_row(key, written, loaded.sources[key])
    screen().print(table)
    return 0


def _check(loaded: Loaded, *, as_json: bool) -> int:
    count = len(loaded.sources)
    if as_json:
        print_json({"ok": True, "keys": count, "warnings": loaded.warnings})
        return 0
    for warning in loaded.warnings:
        print(f"sprint: warning: {warning}", file=sys.stderr)
    print(f"ok: {count} keys")
    return 0
