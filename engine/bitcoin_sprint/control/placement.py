"""Where processes run and how they wait: pinned and spinning only where cores are to spare."""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from bitcoin_sprint.config import Config


class Placement(msgspec.Struct, frozen=True):
    """``spin``: hot processes poll without sleeping. ``cpus``: role to core, for those pinned.
    ``reason`` says why, for the operator."""

    spin: bool
    cpus: dict[str, int]
    reason: str


def hot_roles(config: Config) -> list[str]:
    """Return the roles on the way of every frame that must not wait: ingest, optimised relays."""
    relays = [f"relay-{tier.name}" for tier in config.running_tiers if tier.memory_optimised]
    return ["ingest", *reversed(relays)]


def place(config: Config, cores: Sequence[int] | None = None) -> Placement:
    """Decide for this host; ``cores``: those that we may use (None: ask the kernel).

    One core is always left to everything else, core 0 first, where the kernel's own work lands.
    """
    usable = sorted(os.sched_getaffinity(0) if cores is None else cores)
    hot = hot_roles(config)
    spare = usable[1:]
    enough = len(spare) >= len(hot)
    counted = f"{len(hot)} hot processes, {len(usable)} cores"
    if config.control.wait == "block":
        spin, reason = False, "control.wait = block"
    elif config.control.wait == "spin":
        spin, reason = True, "control.wait = spin"
    else:
        spin, reason = enough, counted
    cpus = dict(zip(hot, spare, strict=False)) if enough and config.optimize_system else {}
    return Placement(spin, cpus, reason)
