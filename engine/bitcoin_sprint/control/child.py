"""One process of the engine: ``python -m bitcoin_sprint.control.child <role> <descriptor>``.

Started by ``sprintd`` only. Reads its order from the inherited socket, takes its seat on the host
(``settling``) and runs its room's ``process.main``. Ends with the exit code of the error that
stopped it, after one line in the log.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from typing import Any

from bitcoin_sprint.control import logs
from bitcoin_sprint.control.channel import ChildEnd, Order
from bitcoin_sprint.control.settling import Settling
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
        settling = Settling(order.seat)
        settling.begin()

        def ready() -> None:
            settling.finish()
            channel.say_ready()

        _room(role)(order, ready)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
