"""The soak's judge: what leaks is caught, what saws, steps once or comes and goes is not."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bench.soak.judge import Series, judge, judge_count, judge_level, sparkline, theil_sen
from bench.soak.sampling import Died, Sampler

MIB = 1 << 20
SECONDS = list(range(60))


def level(shape: Callable[[int], float]) -> Series:
    rng = random.Random(5)
    values = [50 * MIB + MIB * shape(second) + rng.gauss(0, 0.2 * MIB) for second in SECONDS]
    return Series("ingest", "memory", SECONDS, values)


@pytest.mark.parametrize(
    ("shape", "grows"),
    [
        (lambda _: 0.0, False),
        (lambda second: second * 0.2, True),
        (lambda second: second // 10 * 2.5, True),  # a page of the heap at a time
        (lambda second: second * 0.2 + (20 if second % 9 == 0 else 0), True),
        (lambda second: second % 6, False),  # a collection every six seconds
        (lambda second: 8.0 if second >= 55 else 0.0, False),  # one step, late: not yet growth
        (lambda second: 30.0 if second in (20, 21, 40) else 0.0, False),
        (lambda second: -second * 0.2, False),
    ],
    ids=["flat", "steady", "in steps", "steady among peaks", "saw", "late step", "peaks", "falls"],
)
def test_steady_growth_is_found_whatever_lies_over_it(
    shape: Callable[[int], float], grows: bool
) -> None:
    assert judge_level(level(shape)).grows is grows


def test_the_growth_is_that_over_the_whole_time() -> None:
    verdict = judge_level(level(lambda second: second * 0.2))
    assert verdict.growth == pytest.approx(59 * 0.2 * MIB, rel=0.4)
    assert verdict.growth > verdict.bound == 4 * MIB
    assert theil_sen([0, 1, 2, 3], [1.0, 3.0, 5.0, 7.0]) == 2


def test_a_large_process_may_float_by_its_share() -> None:
    times = SECONDS
    values = [1_000.0 * MIB + second * 0.5 * MIB for second in times]
    assert not judge_level(Series("sim", "memory", times, values)).grows


def test_counts_may_come_and_go_but_not_pass_what_they_had() -> None:
    visits = [30 + second % 4 for second in SECONDS]
    assert not judge_count(Series("relay-free", "descriptors", SECONDS, visits)).grows
    leak = [30 + second % 4 + second // 20 for second in SECONDS]
    assert judge_count(Series("relay-free", "descriptors", SECONDS, leak)).grows
    found = judge(
        [Series("relay-free", "descriptors", SECONDS, leak)], {("descriptors", "relay"): 2}
    )
    assert not found[0].grows


def test_shared_memory_may_not_grow_at_all() -> None:
    series = Series("tx", "shared memory", SECONDS, [4096.0] * 59 + [8192.0])
    assert judge([series], {})[0].grows


def test_too_few_samples_are_no_verdict() -> None:
    with pytest.raises(ValueError, match="8 samples say nothing"):
        judge_level(Series("ingest", "memory", SECONDS[:8], [1.0] * 8))


def test_a_sparkline_goes_from_the_lowest_to_the_highest() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert sparkline([5.0] * 100) == "▁" * 24


_LEAKS = {
    "memory": "kept.append(bytearray(b'x') * (1 << 18))",
    "descriptors": "kept.append(os.open('/dev/null', os.O_RDONLY))",
    "threads": "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "shared memory": "os.write(shared, bytes(8192))",
    "nothing": "bytearray(b'x') * (1 << 22)",
}
_LEAKING = """
import os, sys, threading, time
kept = []
shared = os.open("/dev/shm/sprint.{instance}.leak", os.O_WRONLY | os.O_CREAT, 0o600)
for line in sys.stdin:
    {leak}
    print("done", flush=True)
"""


@contextmanager
def leaking(instance: str, what: str) -> Iterator[subprocess.Popen[str]]:
    """A process that leaks once for each line that it is given, and says so."""
    code = _LEAKING.format(instance=instance, leak=_LEAKS[what])
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as made:
        try:
            yield made
        finally:
            made.kill()
            Path(f"/dev/shm/sprint.{instance}.leak").unlink(missing_ok=True)


@pytest.mark.parametrize("what", _LEAKS)
def test_a_leaking_process_is_caught_and_named(what: str) -> None:
    instance = f"t{os.getpid()}-leak"
    with leaking(instance, what) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        sampler = Sampler(instance, {"leaker": process.pid})
        for number in range(45):
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"
            sampler.sample()
            if number == 5:
                sampler.begin_anew()
        found = {(each.subject, each.figure) for each in judge(sampler.series(), {}) if each.grows}
    subject = "leak" if what == "shared memory" else "leaker"
    # A thread takes some memory and a descriptor leads nowhere: each is named for what it is.
    assert ((subject, what) in found) is (what != "nothing")
    assert what == "threads" or len(found) == (what != "nothing")


def test_a_process_that_died_ends_the_sampling() -> None:
    with leaking(f"t{os.getpid()}-died", "nothing") as process:
        sampler = Sampler(f"t{os.getpid()}-none", {"leaker": process.pid})
        sampler.sample()
        process.kill()
        process.wait()
        with pytest.raises(Died, match=rf"leaker \(pid {process.pid}\) is gone"):
            sampler.sample()
