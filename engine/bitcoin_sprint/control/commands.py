"""What the subcommands of ``sprint`` share: how one is declared, and its output for machines."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from rich.cells import cell_len
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bitcoin_sprint.config.schema import INSTANCE_PATTERN

# What add_subparsers returns has no public name.
Subparsers = Any
Cell = str | int | float | Text | None
_WIDTH_OF_FILES: Final = 1_000


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


def real_number(text: str) -> float:
    """Return a number, for argparse."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:64]!r}: must be a number") from None


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
    """Return the terminal, or whatever takes our output, for tables. A file or a pipe has no width,
    so nothing is folded there, unless COLUMNS says otherwise."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDTH_OF_FILES
    return _Screen(highlight=False, markup=False, emoji=False, width=width)


def table(console: Console, headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Group:
    """Return a table; where the screen is too narrow for it, each row as its first cell and the
    others, named, below. Cells that are numbers stand to the right."""
    texts = [[cell if isinstance(cell, Text) else Text(_written(cell)) for cell in row]
             for row in rows]  # fmt: skip
    widths = [
        max(cell_len(heading), *(text.cell_len for text in column)) if column else 0
        for heading, column in zip(headings, zip(*texts, strict=True), strict=False)
    ]
    if sum(widths) + 2 * len(widths) <= console.width:
        drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for index, heading in enumerate(headings):
            numeric = any(isinstance(row[index], int | float) for row in rows)
            drawn.add_column(heading, justify="right" if numeric else "left", no_wrap=True)
        for text in texts:
            drawn.add_row(*text)
        return Group(drawn)
    records: list[Text | Padding] = []
    for first, *others in texts:
        cells = [
            Text.assemble((f"{heading} ", "dim"), text)
            for heading, text in zip(headings[1:], others, strict=True)
            if text.plain
        ]
        records += [Text(first.plain, style="bold"), Padding(Text("  ").join(cells), (0, 0, 0, 2))]
    return Group(*records)


def _written(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:,.1f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
