"""The engine as a service: from its start to SIGTERM, with its service manager kept informed."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from typing import Final

from bitcoin_sprint.config import Config
from bitcoin_sprint.control import logs
from bitcoin_sprint.control.notify import ServiceManager
from bitcoin_sprint.control.settling import Settling
from bitcoin_sprint.control.spawner import Spawner
from bitcoin_sprint.control.supervisor import Supervisor
from bitcoin_sprint.errors import SprintError

_log = logging.getLogger(__name__)

_TELL_S: Final = 1.0


async def run(
    config: Config, load: Callable[[], Config], spawner: Spawner, hangups: Sequence[int] = ()
) -> None:
    """Start the engine, wait for SIGTERM or SIGINT, and stop it. Raises what kept it from
    starting, once everything that had started is gone.

    ``load`` reads the configuration anew, for SIGHUP; ``spawner`` starts the processes;
    ``hangups``: the SIGHUPs that have come already, still to be obeyed.
    """
    stop, hangup = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    if hangups:
        hangup.set()
    manager = ServiceManager()
    try:
        supervisor = Supervisor(config, stays=True, spawner=spawner)
    except BaseException:
        await spawner.close()
        raise
    settling = Settling(supervisor.seat("sprintd"))
    settling.begin()
    starting = asyncio.create_task(supervisor.start())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if not starting.done():
            starting.cancel()
        else:
            await starting
            settling.finish()
            manager.ready(supervisor.summary)
            await _serve(supervisor, manager, stopped, hangup, load)
    finally:
        stopped.cancel()
        manager.stopping()
        _log.info("stopping")
        await asyncio.gather(starting, return_exceptions=True)
        await supervisor.stop()
        _log.info("stopped")


async def _serve(
    supervisor: Supervisor,
    manager: ServiceManager,
    stopped: asyncio.Task[bool],
    hangup: asyncio.Event,
    load: Callable[[], Config],
) -> None:
    """Reload on every hangup until told to stop; raises the fault that ends our watching."""
    tasks = [
        asyncio.create_task(_reload(supervisor, manager, hangup, load)),
        asyncio.create_task(_tell(supervisor, manager)),
        asyncio.create_task(supervisor.failed()),
    ]
    try:
        done, _ = await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopped}:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _reload(
    supervisor: Supervisor,
    manager: ServiceManager,
    hangup: asyncio.Event,
    load: Callable[[], Config],
) -> None:
    while True:
        await hangup.wait()
        hangup.clear()
        manager.reloading()
        try:
            new = load()
        except SprintError as error:
            # The same words as at a start; what runs goes on as it was.
            _log.error("%s", error)
        except OSError as error:
            _log.error("the configuration cannot be read: %s", error)
        else:
            await supervisor.reload(new)
            logs.configure(supervisor.config.log, "sprintd")
        manager.ready(supervisor.summary)


async def _tell(supervisor: Supervisor, manager: ServiceManager) -> None:
    """Keep the service manager informed: the status, and that we live and watch our processes."""
    watchdog_s = manager.watchdog_s
    while True:
        manager.status(supervisor.summary)
        if watchdog_s is not None and supervisor.watching:
            manager.alive()
        await asyncio.sleep(_TELL_S if watchdog_s is None else min(_TELL_S, watchdog_s / 2))
