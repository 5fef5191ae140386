"""How a process takes its seat on the host: core, weight, locked memory, frozen garbage.

In two steps. ``begin``, before the process sets itself up: what shall hold from the first page and
thread on. ``finish``, once it serves: its main thread goes to its own core, the others to theirs,
and what is loaded is kept out of every garbage collection. Nothing here is fatal: what the host
refuses is told in ``Settled.reasons`` and the process runs without.

Memory is locked as it is touched (``MCL_ONFAULT``), so that neither stacks nor pools that nobody
uses are filled; once the rings are attached, because under that lock the kernel maps no page ahead
(``MAP_POPULATE``), and frames would be the first to touch theirs; and only where the limit is none:
within a finite ``RLIMIT_MEMLOCK``, locking what comes later (``MCL_FUTURE``) would one day make an
ordinary allocation fail.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import mmap
import os
import resource
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from bitcoin_sprint.config import Config
from bitcoin_sprint.config.quantities import format_size
from bitcoin_sprint.control.placement import Placement, Seat, nice_of
from bitcoin_sprint.control.topology import list_cpus
from bitcoin_sprint.metrics import label_process

_log = logging.getLogger(__name__)

SETTLED: Final = "settled"
"""Label of a process's counters that holds its ``Settled`` as JSON."""

_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4
_MLOCK_ONFAULT: Final = 1
_MAP_NORESERVE: Final = 0x4000
_HOT_TIMER_SLACK_NS: Final = 1_000
_TIMER_SLACK: Final = Path("/proc/self/timerslack_ns")
_libc: Final = ctypes.CDLL(None, use_errno=True)
_ARGUMENTS: Final = {
    "mlock2": [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint],
    "mlockall": [ctypes.c_int],
}
_SCHEDULERS: Final = {
    os.SCHED_OTHER: "other",
    os.SCHED_FIFO: "fifo",
    os.SCHED_RR: "rr",
    os.SCHED_BATCH: "batch",
    os.SCHED_IDLE: "idle",
}


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """How a process sits on the host; ``sprint status`` shows it.

    ``core``: the processor of its main thread, None: it is not pinned; ``cpus``: where the rest of
    it may run, as the kernel lists processors. ``reasons``: why a field says what it says, by its
    name, for those where it is no matter of course.
    """

    hot: bool
    core: int | None
    cpus: str
    waits: Literal["spins", "blocks"]
    nice: int
    scheduler: str
    memory_locked: bool
    gc_frozen: bool
    gc_enabled: bool
    timer_slack_ns: int
    reasons: dict[str, str]


class Settling:
    """One process on its way to its seat. One thread: the process's main one."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._reasons = dict(seat.reasons)
        self._memory_locked = False

    def begin(self) -> None:
        """Take what the process shall have from its first step on."""
        seat = self._seat
        if seat.optimized:
            self._weigh()
            if seat.start_cpus:
                self._try("core", lambda: os.sched_setaffinity(0, seat.start_cpus))
            if seat.hot:
                self._try("timer_slack_ns", _shorten_timer_slack)
        label_process(SETTLED, self._as_label(gc_frozen=False))

    def finish(self) -> None:
        """Take the rest, now that the process serves with all its threads and mappings."""
        seat = self._seat
        if seat.optimized:
            if seat.cpus:
                self._try("core", self._spread)
            if seat.lock_memory:
                self._memory_locked = self._try("memory_locked", _lock_memory)
            # What is loaded by now lives as long as the process: keep it out of every collection.
            gc.collect()
            gc.freeze()
            if not seat.collects:
                gc.disable()
        label_process(SETTLED, self._as_label(gc_frozen=seat.optimized))

    def _weigh(self) -> None:
        """Take the weight. One that was given to us all (``nice sprintd``) is only ever added to,
        unless the configuration asks for one that needs a privilege."""
        wanted, current = self._seat.nice, os.getpriority(os.PRIO_PROCESS, 0)
        if wanted is None or wanted == current:
            return
        if 0 <= wanted < current:
            self._reasons.setdefault("nice", f"sprintd's own is {current}")
            return
        self._try("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, wanted))

    def _spread(self) -> None:
        """Put the main thread on its core and the others where they belong."""
        seat, main = self._seat, os.getpid()
        for path in Path("/proc/self/task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # a thread that has just ended
                if int(path.name) != main:
                    os.sched_setaffinity(int(path.name), seat.cpus)
        os.sched_setaffinity(main, seat.cpus if seat.core is None else {seat.core})

    def _try(self, field: str, action: Callable[[], object]) -> bool:
        """Do it; when the host refuses say so in one line, and go on without."""
        try:
            action()
        except OSError as error:
            self._reasons[field] = reason = f"refused: {error.strerror}"
            _log.warning("%s: the host %s", field, reason)
            return False
        return True

    def _as_label(self, *, gc_frozen: bool) -> str:
        seat = self._seat
        affinity = os.sched_getaffinity(0)
        settled = Settled(
            hot=seat.hot,
            core=seat.core if affinity == {seat.core} else None,
            cpus=list_cpus(seat.cpus or affinity),
            waits="spins" if seat.spins else "blocks",
            nice=os.getpriority(os.PRIO_PROCESS, 0),
            scheduler=_SCHEDULERS.get(os.sched_getscheduler(0), "other"),
            memory_locked=self._memory_locked,
            gc_frozen=gc_frozen,
            gc_enabled=gc.isenabled(),
            timer_slack_ns=_timer_slack_ns(),
            reasons=self._reasons,
        )
        return msgspec.json.encode(settled).decode()


def refusals(config: Config, placement: Placement) -> dict[str, str]:
    """Return what this host does not permit of what the processes are to take, tried out here:
    by the field of ``Settled``, one line each that says what to do."""
    if not config.optimize_system:
        return {}
    roles = [f"relay-{tier.name}" for tier in config.running_tiers]
    found = {
        "core": _pinning_refused(placement.cpus.values()),
        "nice": _weight_refused({role: nice_of(config, role) for role in roles}),
        "memory_locked": _locking_refused(),
    }
    return {field: reason for field, reason in found.items() if reason}


def _pinning_refused(cpus: Iterable[int]) -> str:
    before = os.sched_getaffinity(0)
    try:
        for cpu in cpus:
            os.sched_setaffinity(0, {cpu})
    except OSError as error:
        return (
            f"no permission for pinning: sched_setaffinity: {error.strerror}: allow it in the "
            "unit's SystemCallFilter= or the container's seccomp profile, or set "
            "optimize_system = false"
        )
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, before)
    return ""


def _weight_refused(weights: Mapping[str, int]) -> str:
    role, wanted = min(weights.items(), key=lambda item: item[1])
    before = os.getpriority(os.PRIO_PROCESS, 0)
    if wanted >= min(0, before):
        return ""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, wanted)
    except OSError as error:
        return (
            f"no permission for nice {wanted} ({role}): {error.strerror}: set LimitNICE={wanted} "
            "in the unit, or nice = 0 for its tier"
        )
    os.setpriority(os.PRIO_PROCESS, 0, before)
    return ""


def _locking_refused() -> str:
    """Try to lock more than the limit allows; raises the limit first as far as we may."""
    hard = _raise_lock_limit()
    if hard == resource.RLIM_INFINITY:
        return ""
    # Nothing of it is ever touched: it takes addresses, and no memory.
    probe = mmap.mmap(-1, hard + mmap.PAGESIZE, mmap.MAP_PRIVATE | _MAP_NORESERVE)
    try:
        first = ctypes.c_char.from_buffer(probe)
        address = ctypes.addressof(first)
        del first
        _call("mlock2", address, len(probe), _MLOCK_ONFAULT)
    except OSError:
        return (
            f"memory is not locked: RLIMIT_MEMLOCK is {format_size(hard)}: set "
            "LimitMEMLOCK=infinity in the unit (ulimit -l unlimited in a shell), or "
            "optimize_system = false"
        )
    finally:
        probe.close()
    return ""


def _raise_lock_limit() -> int:
    """Raise the limit of locked memory as far as we may; return it in bytes."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    return hard


def _lock_memory() -> None:
    _raise_lock_limit()
    _call("mlockall", _MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)


def _shorten_timer_slack() -> None:
    _TIMER_SLACK.write_text(str(_HOT_TIMER_SLACK_NS))


def _timer_slack_ns() -> int:
    try:
        return int(_TIMER_SLACK.read_text())
    except (OSError, ValueError):
        return 0


def _call(name: str, *arguments: int) -> None:
    """Call a function of the C library that returns 0 or sets errno. Raises OSError."""
    function = getattr(_libc, name)
    function.argtypes = _ARGUMENTS[name]
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
