"""``sprint``: the operator's command. Each subcommand is a module's ``add`` and ``run``."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from bitcoin_sprint.control import (
    config_command,
    demo,
    replay_command,
    stat_command,
    status_command,
    tail_command,
)
from bitcoin_sprint.control.options import EXIT_CODES
from bitcoin_sprint.errors import SprintError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``sprint``; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="sprint",
        description="See and try Bitcoin Sprint. The engine itself is started by sprintd.",
        epilog=f"example:\n  sprint demo --seconds 20\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=importlib.metadata.version("bitcoin-sprint")
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (
        demo,
        status_command,
        stat_command,
        tail_command,
        replay_command,
        config_command,
    ):
        command.add(commands)
    parsed = parser.parse_args(arguments)
    if sys.stdout is None:
        print("sprint: standard output is closed: there is nowhere to write to", file=sys.stderr)
        return SprintError.exit_code
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may know no µ
    try:
        code: int = parsed.run(parsed)
        sys.stdout.flush()
    except SprintError as error:
        print(f"sprint: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 0  # the operator has seen enough
    except BrokenPipeError:
        _forget_output()  # its reader (head, less) has seen enough
        return 0
    except OSError as error:
        # A disk that is full under our output, or what the host refused unexpectedly.
        print(f"sprint: {error}", file=sys.stderr)
        _forget_output()
        return SprintError.exit_code
    except Exception as error:  # a fault of ours: what an operator needs of it is one line
        place = traceback.extract_tb(error.__traceback__)[-1]
        print(
            f"sprint: {type(error).__name__}: {error} ({Path(place.filename).name}, line "
            f"{place.lineno}): this is a fault of sprint itself; please report it",
            file=sys.stderr,
        )
        return SprintError.exit_code
    return code


def _forget_output() -> None:
    """Send what still waits to be written nowhere: Python would complain about it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
