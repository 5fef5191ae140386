"""Taking a seat on the host: each test in a process of its own, against the real kernel."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bitcoin_sprint.control.settling import Settled

_REFUSING = str(Path(__file__).parents[2] / "refusing_host.py")
_SCRIPT = """
import gc, os, sys, threading
import msgspec
from bitcoin_sprint.control.placement import Seat
from bitcoin_sprint.control.settling import SETTLED, Settling
from bitcoin_sprint.metrics import counters
settling = Settling(msgspec.json.decode(sys.argv[1], type=Seat))
settling.begin()
before = counters._process_labels[SETTLED]
started = threading.Event()
threading.Thread(target=lambda: (started.set(), threading.Event().wait()), daemon=True).start()
started.wait()
settling.finish()
masks = {int(t) == os.getpid(): sorted(os.sched_getaffinity(int(t)))
         for t in os.listdir("/proc/self/task")}
locked = [int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmLck")]
print(msgspec.json.encode([before, counters._process_labels[SETTLED], masks[True], masks[False],
    locked[0], os.getpriority(os.PRIO_PROCESS, 0), gc.get_freeze_count()]).decode())
"""


class _Found(msgspec.Struct, array_like=True):
    before: str
    label: str
    main_cpus: list[int]
    other_cpus: list[int]
    locked_kib: int
    nice: int
    frozen: int

    @property
    def settled(self):
        return msgspec.json.decode(self.label, type=Settled)


def _settle(launcher=(), **seat):
    """Take a seat in a process of its own; what it said and what the kernel says. Its warnings."""
    seat = {"optimized": True, **seat}
    ended = subprocess.run(
        [*launcher, sys.executable, "-c", _SCRIPT, msgspec.json.encode(seat).decode()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return msgspec.json.decode(ended.stdout, type=_Found), ended.stderr.splitlines()


def _refusing(*options):
    return (sys.executable, _REFUSING, *options)


def test_a_seat_that_is_none_changes_nothing():
    found, warnings = _settle(optimized=False, hot=True, nice=3, cpus=[min(_usable())])
    assert found.main_cpus == _usable()
    assert (found.locked_kib, found.frozen, warnings) == (0, 0, [])
    assert found.nice == os.getpriority(os.PRIO_PROCESS, 0)
    assert not found.settled.gc_frozen


def test_a_hot_process_is_weighed_frozen_and_woken_at_once():
    found, warnings = _settle(hot=True, nice=7, collects=False)
    settled = found.settled
    assert (found.nice, settled.nice, settled.scheduler) == (7, 7, "other")
    assert found.frozen > 1000
    assert (settled.gc_frozen, settled.gc_enabled) == (True, False)
    assert settled.timer_slack_ns == 1000
    assert settled.core is None
    assert not warnings
    assert not msgspec.json.decode(found.before, type=Settled).gc_frozen


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_the_main_thread_has_its_core_and_the_others_keep_off():
    first, last = _usable()[0], _usable()[-1]
    found, _ = _settle(hot=True, core=last, cpus=[first])
    assert (found.main_cpus, found.other_cpus) == ([last], [first])
    assert (found.settled.core, found.settled.cpus) == (last, str(first))


def test_a_core_that_is_gone_costs_a_line_and_nothing_else():
    found, warnings = _settle(hot=True, core=4000, cpus=[4000])
    assert found.settled.core is None
    assert found.settled.reasons["core"] == "refused: Invalid argument"
    assert warnings == ["core: the host refused: Invalid argument"]


def test_a_weight_given_to_the_whole_engine_is_kept():
    found, warnings = _settle(("nice", "-n", "8"), nice=0)
    assert found.nice == 8
    assert found.settled.reasons["nice"] == "sprintd's own is 8"
    assert not warnings


def test_memory_is_locked_where_the_limit_is_none():
    found, warnings = _settle(hot=True, lock_memory=True)
    if found.settled.memory_locked:
        assert found.locked_kib > 10_000
        assert not warnings
    else:
        assert len(warnings) == 1


def test_refused_locking_costs_a_line_and_nothing_else():
    found, warnings = _settle(_refusing("--no-locking"), hot=True, lock_memory=True)
    assert (found.locked_kib, found.settled.memory_locked) == (0, False)
    assert found.settled.reasons["memory_locked"].startswith("refused: ")
    assert len(warnings) == 1


_REFUSALS = """
import os, sys
from bitcoin_sprint.config import load
from bitcoin_sprint.control.placement import Placement
from bitcoin_sprint.control.settling import refusals
config = load(None, {"tier": "free", "relay.tiers.free.nice": sys.argv[1]})
before = os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)
found = refusals(config, Placement(True, {"ingest": max(before[0])}, "", ""))
assert before == (os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0))
for field, reason in found.items():
    print(field, reason)
"""


def _refusals(*options, nice=10):
    """What a host refuses, by field; trying it out has changed nothing."""
    ended = subprocess.run(
        [*_refusing(*options), sys.executable, "-c", _REFUSALS, str(nice)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return dict(line.split(" ", 1) for line in ended.stdout.splitlines())


def test_each_refusal_says_what_to_do():
    found = _refusals("--no-pinning", "--no-locking", nice=-5)
    assert found == {
        "core": "no permission for pinning: sched_setaffinity: Operation not permitted: allow it "
        "in the unit's SystemCallFilter= or the container's seccomp profile, or set "
        "optimize_system = false",
        "nice": "no permission for nice -5 (relay-free): Permission denied: set LimitNICE=-5 in "
        "the unit, or nice = 0 for its tier",
        "memory_locked": "memory is not locked: RLIMIT_MEMLOCK is 0B: set LimitMEMLOCK=infinity "
        "in the unit (ulimit -l unlimited in a shell), or optimize_system = false",
    }


def test_what_needs_no_privilege_is_never_refused():
    assert set(_refusals("--no-locking")) == {"memory_locked"}


def _usable():
    return sorted(os.sched_getaffinity(0))
