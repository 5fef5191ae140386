"""The process of one tier's worker, as ``sprintd`` starts it."""

from __future__ import annotations

import logging
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bitcoin_sprint.config import Config
from bitcoin_sprint.errors import ConfigError
from bitcoin_sprint.frames import Level
from bitcoin_sprint.relay.worker import Worker, WorkerOptions
from bitcoin_sprint.tiers import TierPolicy

_log = logging.getLogger(__name__)

_ATTACH_PAUSE_S: Final = 0.02
_ATTACH_WARN_S: Final = 5.0


def main(
    config: Config,
    tier: str,
    ready: Callable[[], None],
    on_reload: Callable[[Callable[[Config], None]], None] = lambda _take: None,
) -> None:
    """Serve ``tier`` until SIGTERM or SIGINT; call ``ready`` once subscribers can connect.

    ``on_reload`` is given what takes the tier's new values out of a new configuration, from any
    thread. Waits for the rings to exist. Raises HostError when a port is taken or access refused.
    """
    policy = config.relay.tiers[tier]
    _raise_descriptor_limit()
    worker = Worker(policy, worker_options(config, policy))

    def stop(_number: int, _frame: object) -> None:
        worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        _await_rings(worker, config.instance)
        worker.listen()
    except BaseException:
        worker.close()
        raise
    on_reload(lambda new: worker.set_policy(new.relay.tiers[tier]))
    ready()
    worker.run()


def worker_options(config: Config, policy: TierPolicy) -> WorkerOptions:
    """What the configuration says to one tier's worker."""
    relay, directory = config.relay, config.ring.directory
    unix_path = None
    if relay.unix_directory:
        unix_path = Path(relay.unix_directory) / f"{config.instance}.{policy.name}.sock"
    return WorkerOptions(
        instance=config.instance,
        network=config.network,
        level=core_level(config),
        bind_host=relay.bind_host,
        unix_path=unix_path,
        zmq_high_water_mark=relay.zmq_high_water_mark,
        zmq_curve_secret_key=_curve_key(relay.zmq_curve_key_file),
        ring_directory=Path(directory) if directory else None,
        memory_channel=config.memory_channel,
        spin=policy.memory_optimised and config.control.wait == "spin",
    )


def core_level(config: Config) -> Level:
    """How far a block is to be proved before it goes out on Bitcoin Core's topics."""
    if config.relay.level == "auto":
        trusted = any(node.trusted for node in config.ingest.zmq)
        return Level.CONNECTED if trusted else Level.MERKLE
    return Level.CONNECTED if config.relay.level == "connected" else Level.MERKLE


def _curve_key(path: str) -> str:
    """The secret key in a file, "" where none is configured. Raises ConfigError."""
    if not path:
        return ""
    try:
        return Path(path).expanduser().read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"relay.zmq_curve_key_file = {path!r}: {error}") from error


def _await_rings(worker: Worker, instance: str) -> None:
    started = time.monotonic()
    warned = False
    while not worker.attach() and not worker.stopping:
        time.sleep(_ATTACH_PAUSE_S)
        if not warned and time.monotonic() - started > _ATTACH_WARN_S:
            warned = True
            _log.warning("still no rings of instance %s: is ingest running?", instance)


def _raise_descriptor_limit() -> None:
    """As many descriptors as the host allows us: each subscriber takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
