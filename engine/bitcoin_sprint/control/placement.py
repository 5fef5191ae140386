"""Where processes run and how they wait: pinned and spinning only where cores are to spare.

Design: ``sprintd`` decides once for all processes (``place``), asks the host whether it permits
what was decided (``refusals``), and gives every process its ``Seat``; ``settling`` takes it. So a
refusal is one line of the engine, not one a process and start.

A hot process that spins keeps a core for itself, and so do then the other hot ones. The rest keeps
a physical core of its own: the one with processor 0, where the kernel's work lands. With fewer
cores than that the hot processes would take the time of those they wait for, so everything blocks
and nothing is pinned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec

from bitcoin_sprint.config import Config
from bitcoin_sprint.control.topology import Core, Topology, read_topology

_OPTIMIZED: Final = ("core", "nice", "memory_locked", "gc_frozen", "timer_slack_ns")
"""Fields of ``Settled`` that ``optimize_system`` is about."""


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """What one process takes of the host. The default: what it inherits.

    ``reasons`` says why something was not given, by the field of ``Settled`` that shows it.
    """

    optimized: bool = False
    """The system may be optimised for it; else nothing below is touched."""
    hot: bool = False
    """On the way of every frame: memory locked, garbage frozen, short timer slack."""
    spins: bool = False
    core: int | None = None
    """The processor of its main thread; None: it is not pinned."""
    cpus: tuple[int, ...] = ()
    """Processors of its other threads, and of all while it is not pinned. Empty: as inherited."""
    start_cpus: tuple[int, ...] = ()
    """Where it may run until it serves. Empty: as inherited."""
    nice: int | None = None
    lock_memory: bool = False
    collects: bool = True
    """Garbage may be collected at any moment once it serves; False: when its loop says so."""
    reasons: Mapping[str, str] = msgspec.field(default_factory=dict)


class Placement(msgspec.Struct, frozen=True):
    """``spin``: hot processes poll without sleeping. ``cpus``: role to processor, for those pinned.
    ``rest``: the processors of everything else, where any is pinned. ``home``: those around the
    pinned ones, where their memory shall lie. ``counted`` is what was found, ``reason`` what
    decided how to wait; both for the operator."""

    spin: bool
    cpus: dict[str, int]
    reason: str
    counted: str
    rest: tuple[int, ...] = ()
    home: tuple[int, ...] = ()


def hot_roles(config: Config) -> list[str]:
    """Return the roles on the way of every frame that must not wait: ingest, optimised relays."""
    relays = [f"relay-{tier.name}" for tier in config.running_tiers if tier.memory_optimised]
    return ["ingest", *reversed(relays)]


def place(config: Config, topology: Topology | None = None) -> Placement:
    """Decide for this host; ``topology``: what we may use (None: read it)."""
    if topology is None:
        topology = read_topology()
    hot = hot_roles(config)
    chosen, counted = _choose(topology, len(hot)), _counted(hot, topology)
    if config.control.wait == "auto":
        spin, reason = bool(chosen), counted
    else:
        spin, reason = config.control.wait == "spin", f"control.wait = {config.control.wait}"
    if not chosen or not config.optimize_system:
        return Placement(spin, {}, reason, counted)
    # A core on which somebody spins, or that is isolated, is nobody else's; one whose process
    # sleeps between frames others may use meanwhile.
    spinning = spin and bool(_ring_loops(config))
    taken = {cpu for core in chosen if spinning or core.isolated for cpu in core.cpus}
    nodes = {core.node for core in chosen}
    left = [core for core in topology.cores if not taken & set(core.cpus)]
    common = [core for core in left if not core.isolated] or left
    return Placement(
        spin,
        {role: core.cpus[0] for role, core in zip(hot, chosen, strict=True)},
        reason,
        counted,
        tuple(sorted(cpu for core in common for cpu in core.cpus)),
        tuple(sorted(cpu for core in topology.cores if core.node in nodes for cpu in core.cpus)),
    )


def seat(config: Config, placement: Placement, role: str, refused: Mapping[str, str]) -> Seat:
    """Return what ``role`` takes. ``refused``: why the host does not permit a thing, by the
    fields of ``Settled``."""
    hot = role in hot_roles(config)
    spins = placement.spin and role in _ring_loops(config)
    reasons = {"waits": _why_it_waits(hot, spins, placement)}
    if not config.optimize_system:
        off = "optimize_system = false"
        return Seat(spins=spins, hot=hot, reasons={**dict.fromkeys(_OPTIMIZED, off), **reasons})
    core = None if "core" in refused else placement.cpus.get(role)
    if core is None:
        reasons["core"] = _why_not_pinned(hot, placement, refused)
    if not hot:
        reasons |= dict.fromkeys(("memory_locked", "timer_slack_ns"), "not hot")
    elif "memory_locked" in refused:
        reasons["memory_locked"] = refused["memory_locked"]
    pins = bool(placement.cpus) and "core" not in refused
    nice = nice_of(config, role)
    if nice < 0 and "nice" in refused:
        nice, reasons["nice"] = 0, refused["nice"]
    return Seat(
        optimized=True,
        hot=hot,
        spins=spins,
        core=core,
        cpus=_other_cpus(core, spins, placement) if pins else (),
        start_cpus=placement.home if pins and core is not None else (),
        nice=nice,
        lock_memory=hot and "memory_locked" not in refused,
        collects=role not in _ring_loops(config),
        reasons=reasons,
    )


def nice_of(config: Config, role: str) -> int:
    """Return the weight of a role: a relay's is its tier's. Ingest, upstream of them all, has the
    weight of the first among them; nothing waits for the others."""
    tiers = {f"relay-{tier.name}": tier.nice for tier in config.running_tiers}
    return min(0, *tiers.values()) if role == "ingest" else tiers.get(role, 0)


def _ring_loops(config: Config) -> list[str]:
    """Return the hot roles whose loop waits for a ring, not for sockets alone, so that it can
    spin, and makes no reference cycles, so that it collects garbage when it has the time."""
    return [role for role in hot_roles(config) if role != "ingest"]


def _choose(topology: Topology, count: int) -> list[Core]:
    """Return ``count`` physical cores, on one memory node if it has so many, isolated ones first;
    none when that would leave no core to everything else."""
    # What we leave: the core that serves the kernel, else the first that is not isolated.
    kept = min(topology.cores, key=lambda core: (core.isolated, not core.serves_kernel, core.cpus))
    free = [core for core in topology.cores if core is not kept]
    quota = math.inf if topology.quota_cores is None else topology.quota_cores
    if len(free) < count or quota < count + 1:
        return []
    by_node: dict[int, list[Core]] = {}
    for core in sorted(free, key=lambda core: (not core.isolated, core.cpus)):
        by_node.setdefault(core.node, []).append(core)

    def preference(node: int) -> tuple[bool, int, bool, int]:
        first = by_node[node][:count]
        isolated = sum(core.isolated for core in first)
        return len(first) < count, -isolated, node != kept.node, node

    ordered = [core for node in sorted(by_node, key=preference) for core in by_node[node]]
    return ordered[:count]


def _other_cpus(core: int | None, spins: bool, placement: Placement) -> tuple[int, ...]:
    """Return where a process's threads beside the pinned one run: with it while it sleeps
    between frames, with everything else while it never does."""
    return placement.rest if core is None or spins else (core,)


def _counted(hot: list[str], topology: Topology) -> str:
    cores, threads = len(topology.cores), len(topology.cpus)
    text = f"{_many(len(hot), 'hot process', 'es')}, {_many(cores, 'core', 's')}"
    if threads > cores:
        text += f" with {threads} threads"
    if topology.quota_cores is not None and topology.quota_cores < cores:
        text += f", time for {topology.quota_cores:g} (CPU quota)"
    return text


def _many(count: int, noun: str, plural: str) -> str:
    return f"{count} {noun}{plural if count != 1 else ''}"


def _why_it_waits(hot: bool, spins: bool, placement: Placement) -> str:
    if hot and placement.spin and not spins:
        return "waits for sockets"
    return placement.reason if hot else "not hot"


def _why_not_pinned(hot: bool, placement: Placement, refused: Mapping[str, str]) -> str:
    if not hot:
        return "not hot"
    if not placement.cpus:
        return f"no core to spare: {placement.counted}"
    return refused["core"]
