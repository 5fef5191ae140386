"""The engine under soak: ``sprintd`` with a simulated node at full speed, private to this run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from bitcoin_sprint.control.demo import free_ports
from bitcoin_sprint.control.status import read_snapshot, read_status
from bitcoin_sprint.errors import SprintError
from bitcoin_sprint.tiers import TIERS

_START_S = 60.0
_STOP_S = 30.0


class EngineFailed(Exception):
    """The engine did not come up, or left something behind; the text carries the end of its log."""


class Engine:
    """One ``sprintd`` in ``folder``, with ``keys`` beside what a soak always sets. A context."""

    def __init__(self, folder: Path, keys: Mapping[str, object]) -> None:
        self.instance = f"soak-{os.getpid()}"
        self._claims = ExitStack()
        self._log = folder / "log"
        wanted = {
            f"relay.tiers.{tier}.{field}": 0
            for tier in TIERS
            for field in ("stream_port", "zmq_port")
        }
        self._ports = free_ports({**wanted, "sim.port": 0}, self._claims)
        self._keys = {
            "instance": self.instance,
            "network": "regtest",
            "data_dir": folder / "data",
            "sim.enabled": "true",
            "sim.interval": "0s",
            "log.level": "warning",
            "log.format": "logfmt",
            **self._ports,
            **keys,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def tiers(self) -> dict[str, list[int]]:
        """Stream and ZeroMQ port of each tier."""
        return {
            tier: [
                self._ports[f"relay.tiers.{tier}.{field}"] for field in ("stream_port", "zmq_port")
            ]
            for tier in TIERS
        }

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each role, and of the nursery that processes come out of.

        Raises SprintError where the engine does not run.
        """
        pids = {each["role"]: each["pid"] for each in read_status(self.instance)["processes"]}
        born = psutil.Process(pids["sprintd"]).children()
        for process in born:
            if process.pid not in pids.values():
                title = " ".join(process.cmdline()).strip()
                pids[title.removeprefix("sprintd: ")] = process.pid
        return pids

    @property
    def log(self) -> str:
        """The end of what it wrote."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    def counters(self, role: str) -> dict[str, int]:
        """Return a process's counters; nothing while it has none."""
        snapshot = read_snapshot(self.instance, role)
        counters: dict[str, int] = snapshot["counters"] if snapshot else {}
        return counters

    def ask_full_block(self) -> None:
        """Have the next block weigh 4,000,000 units."""
        os.kill(self.pids["sim"], signal.SIGUSR2)

    def __enter__(self) -> Engine:
        settings = [f"--set={key}={value}" for key, value in self._keys.items()]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bitcoin_sprint.control.sprintd", *settings],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _START_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise EngineFailed(f"sprintd did not start:\n{self.log}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: Any) -> None:
        assert self._process is not None
        try:
            if self._process.poll() is None:
                self._process.terminate()
            code = self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._claims.close()
        left = [path.name for path in Path("/dev/shm").glob(f"sprint.{self.instance}.*")]
        if code or left:
            raise EngineFailed(f"sprintd ended with {code}, left behind: {left}\n{self.log}")

    def _is_ready(self) -> bool:
        try:
            processes = read_status(self.instance)["processes"]
        except (SprintError, KeyError):
            return False
        return all(each["state"] == "ready" for each in processes)
