"""``sprintd``: runs one instance of the engine until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import logging
import signal
import sys
from collections.abc import Sequence

import uvloop

from bitcoin_sprint.config import Config
from bitcoin_sprint.control import logs
from bitcoin_sprint.control.notify import notify
from bitcoin_sprint.control.options import EXIT_CODES, add_config_options, loaded_config
from bitcoin_sprint.control.settling import Settling
from bitcoin_sprint.control.supervisor import Supervisor
from bitcoin_sprint.errors import SprintError

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``sprintd``; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="sprintd",
        description="Run the engine: ingest and a relay for every tier, until SIGTERM.",
        epilog=f"example:\n  sprintd --config /etc/bitcoin-sprint/sprint.toml\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_options(parser)
    parser.add_argument(
        "--version", action="version", version=importlib.metadata.version("bitcoin-sprint")
    )
    try:
        config = loaded_config(parser.parse_args(arguments)).config
    except SprintError as error:
        print(f"sprintd: {error}", file=sys.stderr)
        return error.exit_code
    logs.configure(config.log, "sprintd")
    try:
        uvloop.run(run(config))
    except SprintError as error:
        _log.error("%s", error)
        return error.exit_code
    except Exception:
        _log.exception("sprintd failed")
        return 1
    return 0


async def run(config: Config) -> None:
    """Start the engine, wait for SIGTERM or SIGINT, and stop it. Raises what kept it from
    starting, once everything that had started is gone."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    supervisor = Supervisor(config)
    settling = Settling(supervisor.seat("sprintd"))
    settling.begin()
    starting = asyncio.create_task(supervisor.start())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
    else:
        await starting
        settling.finish()
        notify("READY=1")
        await stopped
    notify("STOPPING=1")
    _log.info("stopping")
    await asyncio.gather(starting, return_exceptions=True)
    await supervisor.stop()
    _log.info("stopped")


if __name__ == "__main__":
    sys.exit(main())
