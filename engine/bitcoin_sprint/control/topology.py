"""What the host has for us: cores, their threads and memory nodes, as far as it tells.

Read once, at start, from the kernel's own text files; what is missing there (a container without
``/sys``) counts as a machine of equal, unshared cores on one node. Nothing here changes anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

_ROOT: Final = Path("/")
_CPUSET_FILES: Final = ("cpuset.cpus.effective", "cpuset.effective_cpus")


class Core(msgspec.Struct, frozen=True):
    """A physical core: the processors of it that we may use (its threads), and where it lies."""

    cpus: tuple[int, ...]
    node: int
    isolated: bool
    """The scheduler puts nothing here by itself (``isolcpus=``, an isolated cpuset)."""
    serves_kernel: bool
    """It holds processor 0, where the kernel's own work and most interrupts land."""


class Topology(msgspec.Struct, frozen=True):
    """The cores that we may use, in the order of their first processors."""

    cores: tuple[Core, ...]
    quota_cores: float | None = None
    """Processor time that the control group allows, in cores; None: no bound."""

    @property
    def cpus(self) -> tuple[int, ...]:
        """Every processor that we may use."""
        return tuple(sorted(cpu for core in self.cores for cpu in core.cpus))


def read_topology(root: Path = _ROOT, mask: Iterable[int] | None = None) -> Topology:
    """Return what this process may use. ``mask``: its affinity (None: ask the kernel).

    An affinity that somebody narrowed (taskset, CPUAffinity=) is obeyed to the letter. One that
    nobody touched lacks only the isolated cores: those of our cpuset are added to it.
    """
    usable = set(os.sched_getaffinity(0) if mask is None else mask)
    isolated = _cpus_in(root / "sys/devices/system/cpu/isolated")
    allowed = _cpuset(root)
    if allowed and usable >= allowed - isolated:
        usable |= allowed & isolated
    nodes = _nodes(root)
    cores: dict[frozenset[int], Core] = {}
    for cpu in sorted(usable):
        threads = _cpus_in(
            root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        ) | {cpu}
        cores.setdefault(
            frozenset(threads),
            Core(
                cpus=tuple(sorted(threads & usable)),
                node=nodes.get(cpu, 0),
                isolated=cpu in isolated,
                serves_kernel=0 in threads,
            ),
        )
    return Topology(tuple(cores.values()), _quota_cores(root))


def parse_cpus(text: str) -> frozenset[int]:
    """Return the processors that a kernel list like ``0-3,8`` names. ValueError when it is none."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def list_cpus(cpus: Iterable[int]) -> str:
    """Return processors as the kernel lists them: ``0-3,8``."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)


def _nodes(root: Path) -> dict[int, int]:
    """Return the memory node of each processor; those of no node are missing."""
    found = {}
    for path in sorted((root / "sys/devices/system/node").glob("node[0-9]*")):
        for cpu in _cpus_in(path / "cpulist"):
            found[cpu] = int(path.name.removeprefix("node"))
    return found


def _cpuset(root: Path) -> frozenset[int]:
    """Return what our control group, or the next one above it that says so, lets us use; else
    every processor that is there (none where the host does not tell)."""
    for controller, folder in _groups(root):
        if controller not in ("", "cpuset"):
            continue
        for name in _CPUSET_FILES:
            cpus = _cpus_in(folder / name)
            if cpus:
                return cpus
    return _cpus_in(root / "sys/devices/system/cpu/online")


def _quota_cores(root: Path) -> float | None:
    """Return the tightest bound on processor time among our control group and those above it."""
    bounds = []
    for _, folder in _groups(root):
        quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
        if not quota:
            quota = _text(folder / "cpu.cfs_quota_us").strip()
            period = _text(folder / "cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit() and int(period):
            bounds.append(int(quota) / int(period))
    return min(bounds, default=None)


def _groups(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield (controller, folder) of our control groups, innermost first; "": the unified one."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        for controller in names.split(","):
            top = root / "sys/fs/cgroup" / (names or "")
            folder = top / path.lstrip("/")
            while folder != top and top in folder.parents:
                yield controller, folder
                folder = folder.parent
            yield controller, top


def _cpus_in(path: Path) -> frozenset[int]:
    try:
        return parse_cpus(_text(path))
    except ValueError:
        return frozenset()


def _text(path: Path) -> str:
    """Return what a file says; "" where there is none that we can read."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
