"""What the subcommands of ``sprint`` share: how one is declared, and its output for machines."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import Any

import msgspec
from rich.console import Console

from bitcoin_sprint.config.schema import INSTANCE_PATTERN

# What add_subparsers returns has no public name.
Subparsers = Any


def add_command(
    commands: Subparsers,
    name: str,
    summary: str,
    example: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    """Declare a subcommand with its help and one example; ``--json`` is everyone's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="JSON, for machines")
    parser.set_defaults(run=run)
    return parser


def instance_name(text: str) -> str:
    """Return ``text`` where it can be an engine's name, for argparse."""
    if not re.fullmatch(INSTANCE_PATTERN, text):
        raise argparse.ArgumentTypeError(f"{text[:64]!r}: must match {INSTANCE_PATTERN}")
    return text


def add_instance_option(parser: argparse.ArgumentParser) -> None:
    """Declare the option that names a running engine."""
    parser.add_argument(
        "--instance",
        type=instance_name,
        default="main",
        metavar="NAME",
        help="the engine's name (default: main)",
    )


def print_json(value: object) -> None:
    """Write one line of JSON to standard output."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        """Let ``sprint`` itself end, with its own exit code."""
        raise BrokenPipeError


def screen() -> Console:
    """Return the terminal, or whatever takes our output, for tables."""
    return _Screen(highlight=False, markup=False, emoji=False)
