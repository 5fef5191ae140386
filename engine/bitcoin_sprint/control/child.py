"""One process of the engine: ``python -m bitcoin_sprint.control.child <role> <descriptor>``.

Started by ``sprintd`` only. Reads its order from the inherited socket, sets itself up (log, core,
scheduling weight) and runs its room's ``process.main``. Ends with the exit code of the error that
stopped it, after one line in the log.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from bitcoin_sprint.control import logs
from bitcoin_sprint.control.channel import ChildEnd, Order
from bitcoin_sprint.errors import SprintError

_log = logging.getLogger(__name__)

# Which room each role runs. Imported when it runs: no process loads the rooms of another.
_ROOMS = {
    "sim": "bitcoin_sprint.ingest.simulator.process",
    "ingest": "bitcoin_sprint.ingest.process",
    "relay": "bitcoin_sprint.relay.process",
    "demo": "bitcoin_sprint.control.demo_subscribers",
}


def main(arguments: list[str]) -> int:
    """Run the role; return the exit code."""
    role, descriptor = arguments
    channel = ChildEnd(int(descriptor))
    try:
        order = channel.receive_order()
    except SprintError:
        return 1  # nobody is left to read a log line
    logs.configure(order.config.log, role)
    channel.stop_with_supervisor()
    try:
        _settle(order)
        _room(role)(order, channel.say_ready)
    except SprintError as error:
        # Before it was ready the supervisor tells the operator, so that it is told once.
        if channel.answered:
            _log.error("%s", error)
        channel.say_failed(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 0
    except Exception:
        _log.exception("%s failed", role)
        return 1
    return 0


def _room(role: str) -> Callable[[Order, Callable[[], None]], None]:
    room, _, tier = role.partition("-")
    process: Any = importlib.import_module(_ROOMS[room])
    if tier:
        return lambda order, ready: process.main(order.config, tier, ready)
    return lambda order, ready: process.main(order.config, ready)


def _settle(order: Order) -> None:
    """Take the core and the weight that the order gives; what the host refuses is only logged."""
    if not order.config.optimize_system:
        return
    if order.cpu is not None:
        try:
            os.sched_setaffinity(0, {order.cpu})
        except OSError as error:
            _log.warning("cannot keep to core %d: %s", order.cpu, error.strerror)
    # What is loaded by now lives as long as the process: keep it out of every collection.
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
