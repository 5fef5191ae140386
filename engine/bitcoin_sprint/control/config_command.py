"""``sprint config show|check``: what the engine would run with, and why."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from bitcoin_sprint.config import render
from bitcoin_sprint.control.commands import Subparsers, add_command, print_json
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
    """Run ``sprint config``; a wrong value is a ConfigError."""
    loaded = loaded_config(arguments)
    values = render(loaded.config)
    if arguments.action == "check":
        if arguments.json:
            print_json({"ok": True, "keys": len(values)})
        else:
            print(f"ok: {len(values)} keys")
        return 0
    if arguments.json:
        print_json(
            {key: {"value": value, "from": loaded.sources[key]} for key, value in values.items()}
        )
        return 0
    table = Table("key", "value", "from", box=None, pad_edge=False)
    for key, value in values.items():
        table.add_row(key, repr(value) if isinstance(value, str) else str(value),
                      loaded.sources[key])  # fmt: skip
    Console().print(table)
    return 0
