"""What every process of an instance takes, second by second."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import psutil

from bench.soak.judge import Series

_SHM = Path("/dev/shm")
SHARED = "shared memory"
FIGURES = ("memory", "descriptors", "threads")


class Died(Exception):
    """A process is not the one that it was when sampling began."""


class Sampler:
    """Samples the processes ``pids`` (by role) and the shared memory of ``instance``.

    Memory is what is resident of the process's anonymous memory (RssAnon): its heap, also where it
    shares pages with the process that it was forked from until either writes to them, which is no
    growth though USS takes it for some. The rings are counted once, as what their objects take of
    ``/dev/shm``.
    """

    def __init__(self, instance: str, pids: Mapping[str, int]) -> None:
        """Raises Died where a process is gone already."""
        self._instance = instance
        self._processes = {role: _process(role, pid) for role, pid in pids.items()}
        self._times: list[float] = []
        self._values: dict[tuple[str, str], list[float]] = defaultdict(list)

    @property
    def pids(self) -> dict[str, int]:
        """The processes that are sampled."""
        return {role: process.pid for role, process in self._processes.items()}

    def sample(self) -> None:
        """Take one sample of everything; raises Died."""
        self._times.append(time.monotonic())
        for role, process in self._processes.items():
            try:
                figures = (_anonymous(process), process.num_fds(), process.num_threads())
            except psutil.Error:
                raise Died(f"{role} (pid {process.pid}) is gone") from None
            for figure, value in zip(FIGURES, figures, strict=True):
                self._values[role, figure].append(value)
        present = _objects(self._instance)
        known = {subject for subject, figure in self._values if figure == SHARED}
        for name in known | set(present):
            values = self._values[name, SHARED]
            # One that came later had nothing before.
            values += [0.0] * (len(self._times) - 1 - len(values)) + [present.get(name, 0.0)]

    def begin_anew(self) -> None:
        """Forget all samples: what came so far was warm-up."""
        self._times.clear()
        self._values.clear()

    def series(self) -> list[Series]:
        """Return what was sampled."""
        times = [at - self._times[0] for at in self._times]
        return [
            Series(subject, figure, times, values)
            for (subject, figure), values in self._values.items()
        ]


def _anonymous(process: psutil.Process) -> float:
    """Bytes of anonymous memory that a process has resident; psutil.Error where it is gone."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        raise psutil.NoSuchProcess(process.pid) from None
    found = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:  # of a zombie nothing is resident
        raise psutil.NoSuchProcess(process.pid)
    return 1024.0 * int(found[1])


def _process(role: str, pid: int) -> psutil.Process:
    try:
        return psutil.Process(pid)
    except psutil.Error:
        raise Died(f"{role} (pid {pid}) is gone") from None


def _objects(instance: str) -> dict[str, float]:
    """Bytes that each shared-memory object of an instance really takes, by its name."""
    prefix = f"sprint.{instance}."
    found: dict[str, float] = {}
    for path in _SHM.glob(f"{prefix}*"):
        try:
            found[path.name.removeprefix(prefix)] = float(path.stat().st_blocks * 512)
        except FileNotFoundError:
            continue
    return found
