"""One process of the engine, from its order to its exit code; born in the nursery.

Reads its order from the inherited socket, takes its seat on the host (``settling``) and runs its
room's ``process.main``. Ends with the exit code of the error that stopped it, after one line in
the log.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any

from bitcoin_sprint.control import logs
from bitcoin_sprint.control.channel import Order
from bitcoin_sprint.control.child_end import ChildEnd
from bitcoin_sprint.control.roles import room_of
from bitcoin_sprint.control.settling import Settling
from bitcoin_sprint.errors import SprintError

_log = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    """Run the role; return the exit code."""
    role, descriptor = arguments
    channel = ChildEnd(int(descriptor))
    try:
        order = channel.receive_order()
    except SprintError:
        return 1  # nobody is left to read a log line
    logs.configure(order.config.log, role)
    channel.on_reload(lambda config: logs.configure(config.log, role))
    channel.watch()
    try:
        settling = Settling(order.seat)
        settling.begin()

        def ready() -> None:
            settling.finish()
            channel.say_ready()

        _run(order, channel, ready)
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


def _run(order: Order, channel: ChildEnd, ready: Callable[[], None]) -> None:
    room: Any = importlib.import_module(room_of(order.role))
    tier = order.role.partition("-")[2]
    if not tier:
        room.main(order.config, ready)
        return
    room.main(order.config, tier, ready, channel.on_reload)
