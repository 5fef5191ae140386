"""Engines for tests: ``sprintd`` as its own process, on free ports, in an instance of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from bitcoin_sprint.control.demo import free_ports
from bitcoin_sprint.control.status import read_status
from bitcoin_sprint.errors import SprintError
from bitcoin_sprint.tiers import TIERS

_SHM = Path("/dev/shm")
_WAIT_S = 60.0
_PORT_CLAIMS = ExitStack()
"""Held until the tests end: no demo that starts meanwhile is given a port of ours."""


class Engine:
    """One ``sprintd``, with a simulated node unless told otherwise. Use as a context manager:
    at its end everything is stopped, and what was left behind is an error."""

    def __init__(self, instance: str, **keys: object) -> None:
        self.instance = instance
        self.folder = Path(tempfile.mkdtemp(prefix="sprint-test-"))
        self.log_path = self.folder / "log"
        self.keys: dict[str, object] = {
            "instance": instance,
            "network": "regtest",
            "data_dir": str(self.folder / "data"),
            "sim.enabled": True,
            "sim.interval": "200ms",
            "sim.transactions_min": 5,
            "sim.transactions_max": 20,
            "ring.blocks_arena": "32MiB",
            "ring.tx_arena": "8MiB",
            "log.format": "json",
            **private_ports(),
            **{key.replace("__", "."): value for key, value in keys.items()},
        }
        self.launcher: list[str] = []
        """Command that runs what follows it, on terms of its own (fewer rights, fewer cores)."""
        self.process: subprocess.Popen[bytes] | None = None
        self.pids: set[int] = set()

    def start(self, environ: Mapping[str, str] | None = None) -> Engine:
        """Start it without waiting."""
        arguments = [f"--set={key}={_text(value)}" for key, value in self.keys.items()]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.launcher,
                    sys.executable,
                    "-m",
                    "bitcoin_sprint.control.sprintd",
                    *arguments,
                ],
                stderr=log,
                stdout=log,
                env={**os.environ, **(environ or {})},
                cwd=self.folder,
            )
        return self

    def ready(self) -> Engine:
        """Wait until every process serves."""
        self.until(lambda: bool(self.states()) and set(self.states().values()) == {"ready"})
        return self

    def states(self) -> dict[str, str]:
        """State of each process by its role; empty while there is none."""
        return {each["role"]: each["state"] for each in self.status().get("processes", [])}

    def status(self) -> dict:  # type: ignore[type-arg]
        """What ``sprint status --json`` says."""
        try:
            status = read_status(self.instance)
        except (SprintError, KeyError):
            return {}
        self.pids |= {each["pid"] for each in status["processes"] if each["pid"]}
        return status

    def pid(self, role: str) -> int:
        """Process id of a role."""
        return next(each["pid"] for each in self.status()["processes"] if each["role"] == role)

    def serving(self, role: str) -> int:
        """Process id of a role that serves, 0 while it does not; both of one look."""
        for each in self.status().get("processes", []):
            if each["role"] == role and each["state"] == "ready":
                return int(each["pid"])
        return 0

    def kill(self, role: str) -> None:
        """Kill a role's process, and wait until its successor serves."""
        old = self.serving(role)
        assert old > 0, f"{role} does not serve"
        os.kill(old, signal.SIGKILL)
        self.until(lambda: self.serving(role) not in (0, old))

    def until(self, condition) -> None:  # type: ignore[no-untyped-def]
        """Wait for a condition, with the log in the error when it does not come."""
        deadline = time.monotonic() + _WAIT_S
        while not condition():
            assert self.process is not None
            assert self.process.poll() is None, f"sprintd ended\n{self.log()}"
            assert time.monotonic() < deadline, f"it never came true\n{self.log()}"
            time.sleep(0.02)

    def wait(self) -> int:
        """Wait for its end; return the exit code."""
        assert self.process is not None
        return self.process.wait(_WAIT_S)

    def stop(self) -> int:
        """Ask it to stop; return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill_supervisor(self) -> None:
        """Kill ``sprintd`` alone; its processes serve on."""
        assert self.process is not None
        self.status()
        self.process.kill()
        self.process.wait()

    def kill_processes(self) -> None:
        """Kill every process that was ever seen and still runs, and wait until all are gone."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _WAIT_S
        while any(_runs(pid) for pid in self.pids):
            assert time.monotonic() < deadline, f"left of {self.pids}"
            time.sleep(0.01)

    def log(self) -> str:
        """Everything that it wrote."""
        return self.log_path.read_text(encoding="utf-8")

    def events(self) -> list[dict]:  # type: ignore[type-arg]
        """Its log, a line an event; a line that is none is an error."""
        return [json.loads(line) for line in self.log().splitlines()]

    def leftovers(self) -> list[str]:
        """Shared memory, processes, listening ports and sockets that are still there."""
        left = [str(path) for path in _SHM.glob(f"sprint.{self.instance}.*")]
        sockets = Path("/proc/net/unix").read_text(encoding="ascii").splitlines()
        left += [line.split()[-1] for line in sockets if f"/{self.instance}/" in line]
        left += [f"process {pid}" for pid in self.pids if _runs(pid)]
        ports = {value for key, value in self.keys.items() if key.endswith("port")}
        left += [
            f"port {each.laddr.port}"
            for each in psutil.net_connections("inet")
            if each.status == psutil.CONN_LISTEN and each.laddr.port in ports
        ]
        return left

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()
        elif self.process is not None and self.process.returncode == -signal.SIGKILL:
            self.kill_processes()
        left = self.leftovers()
        for path in _SHM.glob(f"sprint.{self.instance}.*"):
            path.unlink()
        log = self.log()
        shutil.rmtree(self.folder)
        assert not left, f"left behind: {left}\n{log}"


def private_ports() -> dict[str, object]:
    """Free ports for every listening key."""
    wanted = {
        f"relay.tiers.{tier}.{field}": 0 for tier in TIERS for field in ("stream_port", "zmq_port")
    }
    return dict(free_ports({**wanted, "sim.port": 0}, _PORT_CLAIMS))


def stream_address(engine: Engine, tier: str) -> str:
    """Address of a tier's stream."""
    return f"tcp://127.0.0.1:{engine.keys[f'relay.tiers.{tier}.stream_port']}"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
