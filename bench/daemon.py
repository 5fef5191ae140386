"""A ``sprintd`` of its own for a measurement: free ports, a folder that goes with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping

import psutil

from bitcoin_sprint.control.demo import free_ports
from bitcoin_sprint.control.status import read_status
from bitcoin_sprint.errors import NotRunningError
from bitcoin_sprint.tiers import TIERS

_READY_SECONDS = 60.0


@contextlib.contextmanager
def daemon(name: str, keys: Mapping[str, object]) -> Iterator[psutil.Process]:
    """An engine on its simulated node that serves on every tier; stopped at the end.

    ``keys`` go over a regtest network with small rings. Raises TimeoutError when it
    does not come up.
    """
    instance = f"bench-{name}-{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as claims:
        settings = {**private_settings(folder, claims), "sim.enabled": "true", **keys}
        process = subprocess.Popen(command(instance, settings))
        try:
            _await_ready(instance, process)
            yield psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def private_settings(folder: str, claims: contextlib.ExitStack) -> dict[str, object]:
    """Keys of a regtest engine that disturbs nobody; its ports are ours until ``claims`` ends."""
    wanted = {f"relay.tiers.{tier}.{kind}_port": 0 for tier in TIERS for kind in ("stream", "zmq")}
    return {
        "network": "regtest",
        "data_dir": folder,
        "ring.blocks_arena": "64MiB",
        "ring.tx_arena": "16MiB",
        "log.level": "warning",
        **free_ports({"sim.port": 0, **wanted}, claims),
    }


def command(instance: str, settings: Mapping[str, object]) -> list[str]:
    """The command line of ``sprintd`` with these keys."""
    program = [sys.executable, "-m", "bitcoin_sprint.control.sprintd", "--instance", instance]
    return [*program, *(f"--set={key}={value}" for key, value in settings.items())]


def _await_ready(instance: str, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + _READY_SECONDS
    while process.poll() is None and time.monotonic() < give_up:
        with contextlib.suppress(NotRunningError):
            if {each["state"] for each in read_status(instance)["processes"]} == {"ready"}:
                return
        time.sleep(0.05)
    raise TimeoutError(f"sprintd did not come up in {_READY_SECONDS:g} s, see above")


def processor_seconds(sprintd: psutil.Process) -> dict[int, float]:
    """User and system time so far, by pid, of the daemon and all that it started."""
    family = [sprintd, *sprintd.children(recursive=True)]
    return {each.pid: sum(each.cpu_times()[:2]) for each in family}
