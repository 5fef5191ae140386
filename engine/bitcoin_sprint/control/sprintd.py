"""``sprintd``: runs one instance of the engine until it is told to stop.

What processes are forked from, the nursery, is started as soon as the configuration is known, so
that it loads on another core while this process loads its own part.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import logging
import signal
import sys
from collections.abc import Sequence
from typing import Any

import uvloop

from bitcoin_sprint.config import Config
from bitcoin_sprint.control import logs
from bitcoin_sprint.control.options import EXIT_CODES, add_config_options, loaded_config
from bitcoin_sprint.control.roles import rooms_of, stages
from bitcoin_sprint.control.spawner import NurserySpawner
from bitcoin_sprint.errors import SprintError

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``sprintd``; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="sprintd",
        description="Run the engine: ingest and a relay for every tier, until SIGTERM. "
        "SIGHUP reads the configuration anew.",
        epilog=f"example:\n  sprintd --config /etc/bitcoin-sprint/sprint.toml\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_options(parser)
    parser.add_argument(
        "--version", action="version", version=importlib.metadata.version("bitcoin-sprint")
    )
    parsed = parser.parse_args(arguments)

    def load() -> Config:
        return loaded_config(parsed).config

    hangups: list[int] = []  # those that come while we load are obeyed once we serve
    signal.signal(signal.SIGHUP, lambda number, _frame: hangups.append(number))
    try:
        config = load()
    except SprintError as error:
        print(f"sprintd: {error}", file=sys.stderr)
        return error.exit_code
    logs.configure(config.log, "sprintd")
    try:
        spawner = NurserySpawner(rooms_of(stages(config)))
        spawner.prepare()
        service: Any = importlib.import_module("bitcoin_sprint.control.service")
        uvloop.run(service.run(config, load, spawner, hangups))
    except SprintError as error:
        _log.error("%s", error)
        return error.exit_code
    except Exception:
        _log.exception("sprintd failed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
