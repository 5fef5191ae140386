"""What an instance says about itself: the turbo status of the contract, and its processes."""

from __future__ import annotations

import contextlib
import enum
import time
from typing import Any, Final

import msgspec
import psutil

from bitcoin_sprint.chains import network
from bitcoin_sprint.config import Config, format_duration
from bitcoin_sprint.control.settling import SETTLED, Settled
from bitcoin_sprint.control.status_figures import relay_status, source_statuses
from bitcoin_sprint.errors import Corrupt, NotRunningError, SprintError
from bitcoin_sprint.metrics import CountersView, Snapshot
from bitcoin_sprint.tiers import TIERS, Delivery, TierPolicy

TURBO_STATUS: Final = "turbo_status"
"""Label of sprintd's counters that holds the turbo status as JSON."""


class State(enum.IntEnum):
    """Where a process stands; the value of sprintd's counter ``process.<role>.state``."""

    STOPPED = 0
    STARTING = 1
    READY = 2
    WAITING = 3
    """It died, and waits for its next start."""


def turbo_line(config: Config) -> str | None:
    """Return the contract's line for the start of turbo mode; None when no tier runs it."""
    optimised = [tier for tier in config.running_tiers if tier.memory_optimised]
    if not optimised:
        return None
    tier = optimised[0]  # turbo, where it runs
    return (
        f"⚡ Turbo mode enabled: writeDeadline={format_duration(tier.write_deadline_ns)} "
        f"sharedMemory={str(config.use_shared_memory).lower()} "
        f"blockBufferSize={tier.buffer_frames}"
    )


def memory_channel_warning(config: Config) -> str | None:
    """Return what is to be told where the memory channel is wanted and can't be had."""
    if not config.use_memory_channel or config.memory_channel:
        return None
    return (
        "no memory channel: use_shared_memory = false keeps the rings private; subscribers get the "
        "standard relay"
    )


def turbo_status(config: Config) -> dict[str, Any]:
    """Return the status in the contract's words: the highest tier's values, then every tier's."""
    tiers = [_tier_status(config, tier) for tier in config.running_tiers]
    return {**tiers[-1], "features": features(config), "tiers": tiers}


def features(config: Config) -> list[str]:
    """Return the contract's names of what is really on."""
    ingest = config.ingest
    found = ingest.dns_seeds and ingest.outbound_count and network(config.network).dns_seeds
    named = {
        "Shared Memory": config.use_shared_memory,
        "Direct P2P": config.use_direct_p2p and bool(ingest.p2p or found),
        "Memory Channel": config.memory_channel,
        "System Optimizations": config.optimize_system,
    }
    return [name for name, on in named.items() if on]


def _tier_status(config: Config, tier: TierPolicy) -> dict[str, Any]:
    deadline = format_duration(tier.write_deadline_ns)
    overwrites = tier.delivery is Delivery.OVERWRITE
    return {
        "tier": tier.name,
        "turboModeEnabled": tier.memory_optimised,
        "writeDeadline": deadline,
        "useSharedMemory": config.use_shared_memory,
        "blockBufferSize": tier.buffer_frames,
        "performanceTargets": {
            "blockRelayLatency": (
                f"<{format_duration(tier.relay_target_ns)} ({tier.name.capitalize()})"
            ),
            "writeDeadline": deadline,
            "bufferStrategy": (
                "Overwrite old events (never miss)" if overwrites else "Best effort"
            ),
            "peerNotification": (
                "Zero-copy shared memory"
                if tier.memory_optimised and config.memory_channel
                else "Standard relay"
            ),
        },
    }


class ProcessStatus(msgspec.Struct, frozen=True):
    """One process as the supervisor sees it. ``heartbeat_age_s``: None when it never beat.

    ``placement`` is how it sits on the host, as it says itself: None when it did not.
    ``memory_bytes`` is what is resident, shared pages of the rings among it; ``cpu_s`` the
    processor time taken since its start. Both 0 when it does not run.
    """

    role: str
    state: str
    pid: int
    restarts: int
    heartbeat_age_s: float | None
    memory_bytes: int
    cpu_s: float
    placement: Settled | None = None


def read_status(instance: str) -> dict[str, Any]:
    """Return a running instance's turbo status, ``processes``, ``sources`` and ``relays``.

    ``supervised`` is False where sprintd is dead and its processes serve on. Raises
    NotRunningError when nothing of it lives, HostError when it is not ours to look at.
    """
    found = {name: read_snapshot(instance, name) for name in CountersView.processes(instance)}
    figures = {name: each for name, each in found.items() if each is not None}
    sprintd = figures.pop("sprintd", None)
    supervised = sprintd is not None and sprintd["alive"]
    if not supervised and not any(each["alive"] for each in figures.values()):
        raise _not_running(instance)
    ingest = figures.get("ingest")
    status: dict[str, Any] = _said_by(sprintd) if sprintd is not None else {}
    network = (sprintd or ingest or next(iter(figures.values())))["labels"].get("network", "")
    status |= {"supervised": supervised, "network": network}
    if sprintd is not None and supervised:
        status["placement"] = sprintd["labels"].get("placement", "")
        processes = _supervised(sprintd, figures)
    else:
        processes = _unsupervised(figures)
    relays = [name for name in figures if name.startswith("relay-") and figures[name]["alive"]]
    status["processes"] = [msgspec.to_builtins(each) for each in processes]
    status["sources"] = [msgspec.to_builtins(each) for each in source_statuses(ingest)]
    status["relays"] = [
        msgspec.to_builtins(relay_status(figures[name])) for name in sorted(relays, key=_tier_rank)
    ]
    return status


def _tier_rank(relay: str) -> int:
    tier = relay.removeprefix("relay-")
    return list(TIERS).index(tier) if tier in TIERS else len(TIERS)


def _not_running(instance: str) -> SprintError:
    """Return why an instance of which nothing lives has no status."""
    try:
        view = CountersView.attach(instance, "sprintd")
        with contextlib.closing(view):
            pid = view.snapshot()["pid"]
    except NotRunningError as error:
        return NotRunningError(f"instance {instance} does not run: {error}")
    except SprintError as error:
        return error
    return NotRunningError(f"instance {instance} does not run: its sprintd (pid {pid}) was killed")


def _said_by(sprintd: Snapshot) -> dict[str, Any]:
    try:
        said: dict[str, Any] = msgspec.json.decode(
            sprintd["labels"].get(TURBO_STATUS, "{}"), type=dict[str, Any]
        )
    except msgspec.DecodeError as error:
        raise Corrupt(f"counters of sprintd: its {TURBO_STATUS} is no JSON: {error}") from None
    return said


def _supervised(sprintd: Snapshot, figures: dict[str, Snapshot]) -> list[ProcessStatus]:
    own = ProcessStatus(
        role="sprintd",
        state="ready",
        pid=sprintd["pid"],
        restarts=0,
        heartbeat_age_s=_age_s(sprintd),
        placement=_settled(sprintd),
        **_usage(sprintd["pid"]),
    )
    roles = [
        name.removeprefix("process.").removesuffix(".state")
        for name in sprintd["counters"]
        if name.startswith("process.") and name.endswith(".state")
    ]
    others = [_process_status(figures.get(role), role, sprintd["counters"]) for role in roles]
    return [own, *others]


def _unsupervised(figures: dict[str, Snapshot]) -> list[ProcessStatus]:
    """Return what serves on after its supervisor died, as far as each says so itself."""
    own = ProcessStatus(
        role="sprintd",
        state="dead",
        pid=0,
        restarts=0,
        heartbeat_age_s=None,
        memory_bytes=0,
        cpu_s=0.0,
    )
    others = [
        ProcessStatus(
            role=role,
            state="unsupervised" if each["alive"] else "dead",
            pid=each["pid"] if each["alive"] else 0,
            restarts=0,
            heartbeat_age_s=_age_s(each) if each["alive"] else None,
            placement=_settled(each) if each["alive"] else None,
            **_usage(each["pid"] if each["alive"] else 0),
        )
        for role, each in figures.items()
    ]
    return [own, *others]


def _process_status(figures: Snapshot | None, role: str, counters: dict[str, int]) -> ProcessStatus:
    pid = counters.get(f"process.{role}.pid", 0)
    return ProcessStatus(
        role=role,
        state=_state_word(counters[f"process.{role}.state"]),
        pid=pid,
        restarts=counters.get(f"process.{role}.restarts", 0),
        heartbeat_age_s=_age_s(figures) if figures and figures["alive"] else None,
        placement=_settled(figures) if figures and figures["alive"] else None,
        **_usage(pid),
    )


def _state_word(number: int) -> str:
    known = number in State.__members__.values()
    return State(number).name.lower() if known else f"state {number}"


def _settled(figures: Snapshot) -> Settled | None:
    label = figures["labels"].get(SETTLED)
    try:
        return msgspec.json.decode(label, type=Settled) if label else None
    except msgspec.MsgspecError:
        return None  # another version's, or noise


def _usage(pid: int) -> dict[str, Any]:
    try:
        process = psutil.Process(pid) if pid else None
        times = process.cpu_times() if process else None
        memory = process.memory_info().rss if process else 0
    except (psutil.Error, OverflowError):
        times, memory = None, 0
    return {
        "memory_bytes": memory,
        "cpu_s": round(times.user + times.system, 2) if times else 0.0,
    }


def read_snapshot(instance: str, process: str) -> Snapshot | None:
    """Return a process's counters; None when it has none that can be read (it starts, or died)."""
    try:
        with contextlib.closing(CountersView.attach(instance, process)) as view:
            return view.snapshot()
    except SprintError:
        return None


def _age_s(figures: Snapshot) -> float:
    return round((time.monotonic_ns() - figures["heartbeat"]) / 1e9, 3)
