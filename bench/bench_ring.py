"""The ring beside pyzmq ipc PUB/SUB, iceoryx2 and a multiprocessing queue.

One way from a writer to a reader, each pinned to a core of its own, both spinning: what a Python
reader and what a C reader get. The C reader is judged by half a bare cache-line round trip between
the same two cores, measured at the same time: nothing can be quicker than that. Beside it stands
the same round trip made as seldom as the frames come: what a line costs after their silence.

Every contestant has a short round in turn, several times over; a figure is the median of the
rounds' own percentiles, so that a round which something else on the machine disturbed does not
speak for the rest. Tails are as long as a round: 24,000 messages for the small sizes in a full run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from bench import native_ends
from bench.contestants.iceoryx2_pubsub import Iceoryx2
from bench.contestants.pyzmq_ipc import PyzmqIpc
from bench.contestants.queues import MultiprocessingQueue
from bench.contestants.ring import CRing, PythonRing
from bench.cores import await_quiet, share_a_physical_core, two_cores
from bench.oneway import PERCENTILES, Contestant, Load, Sample, measure, percentile
from bench.report import Effort, Report, Row, grid, progress

_SMALL_NS, _MIDDLE_NS, _LARGE_NS = 50_000, 300_000, 4_000_000
_ROUNDS = {Effort.FULL: 9, Effort.QUICK: 4, Effort.SMOKE: 1}
_ROUND_SECONDS = {Effort.FULL: 1.2, Effort.QUICK: 0.4, Effort.SMOKE: 0.05}
_QUIET_SECONDS = 0.3  # at most waited for a quiet machine before a round
_BUSY_SHARE = 0.3
_TRIAL_SECONDS = {Effort.FULL: 0.5, Effort.QUICK: 0.2, Effort.SMOKE: 0.02}
_80_B = "80 B"
_80_B_OF_IT = "80 B of it"  # PythonRing's name for a frame that differs in its length alone
_LOOKED_AT = "1 MiB looked at, from the commit,"

Samples = dict[str, list[Sample]]

# At 80 B and p50: how many times quicker than the peer a Python reader is to be, and how much of
# the physical bound (half a bare round trip) a C reader is to reach.
_PYTHON_TARGETS = {"pyzmq ipc": 60.0, "iceoryx2": 6.0}
_C_TARGET = 1 / 4
_FLOOR = "half a bare cache-line round trip"
_PACED_FLOOR = "the same line as seldom as the frames"


def run(effort: Effort) -> Report:
    """Measures every load with every contestant in turn."""
    cores = two_cores()
    kinship = "one physical core" if share_a_physical_core(*cores) else "different physical cores"
    progress(f"writer on core {cores[0]}, reader on core {cores[1]} ({kinship})")
    report = Report("ring")
    for label, load in _loads(_ROUND_SECONDS[effort]).items():
        contestants = _choose(load, cores, _TRIAL_SECONDS[effort])
        if label == _LOOKED_AT:
            contestants.append(partial(PythonRing, committed_bytes=80))
        floors, samples = _take_turns(label, load, contestants, cores, _ROUNDS[effort])
        floor_ns = float(np.median(floors))
        report.rows += _python_rows(label, samples) + _c_rows(label, samples, floor_ns)
        if label == _80_B:
            report.rows.append(_paced_row(samples, cores, load))
        if _80_B_OF_IT in samples:
            report.rows.append(_size_row(samples))
        report.tables.append(_table(label, samples, floor_ns))
    return report


def _loads(seconds: float) -> dict[str, Load]:
    """What is sent, by its name in the rows; a round of each lasts about ``seconds``."""

    def load(size: int, interval_ns: int, **how: bool) -> Load:
        return Load(size, max(40, int(seconds * 1e9 / interval_ns)), interval_ns, **how)

    return {
        _80_B: load(80, _SMALL_NS),
        "1 KiB": load(1 << 10, _SMALL_NS),
        "64 KiB": load(1 << 16, _MIDDLE_NS),
        _LOOKED_AT: load(1 << 20, _LARGE_NS, from_commit=True),
        "1 MiB touched throughout, from the commit,": load(
            1 << 20, _LARGE_NS, from_commit=True, touch=True
        ),
    }


def _choose(load: Load, cores: tuple[int, int], seconds: float) -> list[Callable[[], Contestant]]:
    """What takes part; of a peer's forms the one with the better median in a short trial."""
    trial = Load(
        load.size, max(20, int(seconds * 1e9 / load.interval_ns)), load.interval_ns,
        load.from_commit, load.touch,
    )  # fmt: skip
    forms: list[Callable[[], Contestant]]
    forms = [partial(PyzmqIpc, spin=True), partial(PyzmqIpc, spin=False)]
    trials = [percentile(measure(form(), trial, cores).latencies_ns, 50) for form in forms]
    chosen: list[Callable[[], Contestant]]
    chosen = [PythonRing, CRing, forms[int(np.argmin(trials))], MultiprocessingQueue]
    try:
        Iceoryx2()
    except ImportError:
        progress("iceoryx2 is missing: run `make peers`")
    else:
        chosen.append(Iceoryx2)
    return chosen


def _take_turns(
    label: str,
    load: Load,
    contestants: Sequence[Callable[[], Contestant]],
    cores: tuple[int, int],
    rounds: int,
) -> tuple[list[float], Samples]:
    """The floor in each round, and the rounds by contestant."""
    floors: list[float] = []
    gathered: dict[str, list[Sample]] = {}
    for turn in range(rounds):
        progress(f"{label.rstrip(',')}: round {turn + 1} of {rounds}")
        busy = await_quiet(cores, _QUIET_SECONDS)
        if busy > _BUSY_SHARE:
            progress(f"something else keeps a core {busy:.0%} busy: expect its time, not ours")
        floors.append(native_ends.half_round_trip_ns(cores))
        for make in contestants:
            contestant = make()
            sample = measure(contestant, load, cores)
            gathered.setdefault(contestant.name, []).append(sample)
            if sample.lost:
                progress(f"{contestant.name}: {sample.lost} of {load.count} messages lost")
    return floors, gathered


def _figure(rounds: list[Sample], percent: float) -> float:
    """Microseconds: the median of the rounds' percentiles."""
    each = [percentile(sample.latencies_ns, percent) for sample in rounds]
    return float(np.median(each)) / 1e3


def _python_rows(label: str, samples: Samples) -> list[Row]:
    rows = []
    for peer in ("pyzmq ipc", "iceoryx2", "multiprocessing queue"):
        for percent in PERCENTILES:
            theirs = _figure(samples[peer], percent) if peer in samples else None
            judged = label == _80_B and percent == 50
            rows.append(
                Row(
                    name=f"python reader {label} one-way p{percent:g}",
                    ours=_figure(samples["python ring"], percent),
                    unit="us",
                    peer=peer,
                    theirs=theirs,
                    target=_PYTHON_TARGETS.get(peer) if judged else None,
                )
            )
    return rows


def _c_rows(label: str, samples: Samples, floor_ns: float) -> list[Row]:
    rows = []
    for percent in PERCENTILES:
        judged = label == _80_B and percent == 50
        rows.append(
            Row(
                name=f"C reader {label} one-way p{percent:g}",
                ours=_figure(samples["C ring"], percent),
                unit="us",
                peer=_FLOOR if judged else None,
                theirs=floor_ns / 1e3 if judged else None,
                target=_C_TARGET if judged else None,
            )
        )
    return rows


def _paced_row(samples: Samples, cores: tuple[int, int], load: Load) -> Row:
    """The C reader beside a line that is passed on at the frames' own pace."""
    halves = [native_ends.half_round_trip_ns(cores, load.interval_ns) for _ in range(5)]
    return Row(
        name=f"C reader {_80_B} one-way p50",
        ours=_figure(samples["C ring"], 50),
        unit="us",
        peer=_PACED_FLOOR,
        theirs=float(np.median(halves)) / 1e3,
    )


def _size_row(samples: Samples) -> Row:
    """Looking at 1 MiB is to cost no more than looking at 80 B: nothing is copied.

    Both are committed at the same pace, after 1 MiB was filled. What a frame costs grows with the
    silence before it, whatever its length (on the machine of the README 0.3 us after 50 us and 5 us
    after 8 ms at the C reader): a timetable of its own would show that, not the length.
    """
    return Row(
        name=f"python reader {_LOOKED_AT} one-way p50",
        ours=_figure(samples["python ring"], 50),
        unit="us",
        peer="python reader 80 B, from the commit, after the same filling",
        theirs=_figure(samples[_80_B_OF_IT], 50),
        target=1.0,
    )


def _table(label: str, samples: Samples, floor_ns: float) -> str:
    lines: list[tuple[str, list[float | None]]] = [
        (f"p{percent:g}", [_figure(rounds, percent) for rounds in samples.values()])
        for percent in PERCENTILES
    ]
    counts = [sum(len(taken.latencies_ns) for taken in rounds) for rounds in samples.values()]
    lines.append(("samples", [float(count) for count in counts]))
    title = f"{label.rstrip(',')}, one way, us ({_FLOOR}: {floor_ns:.0f} ns)"
    return grid(title, list(samples), lines)
