"""Whether a figure that was sampled again and again grows.

Memory moves in steps and saws, so one sample says nothing. Two robust estimates of the growth over
the whole time are made: the Theil-Sen slope (the median of the slopes between all pairs of samples,
Sen 1968, which a third of outliers does not move) times the time, and the median of the last third
less that of the first. What grows steadily shows in both; a saw's tooth, or one step as a cache
fills up, in one of them at the most. The smaller of the two is the growth.

Descriptors and threads come and go with subscribers: there the highest count of the second half may
not pass that of the first half by more than come and go at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

MEMORY_GROWTH_MAX_BYTES: Final = 4 << 20
"""What a heap may still gain by being cut up: large blocks come between small ones."""
MEMORY_GROWTH_MAX_SHARE: Final = 0.04
"""Of what the process has at its plateau; the larger of both bounds counts."""
SAMPLES_MIN: Final = 9
_SPARKS: Final = "▁▂▃▄▅▆▇█"


class Series(NamedTuple):
    """One figure of one process, or of shared memory. ``times``: seconds, rising."""

    subject: str
    figure: str
    times: Sequence[float]
    values: Sequence[float]


class Verdict(NamedTuple):
    """What was found. ``plateau`` is the median, ``growth`` over the whole time, in its unit."""

    subject: str
    figure: str
    plateau: float
    highest: float
    growth: float
    bound: float
    grows: bool
    sparkline: str


def theil_sen(times: Sequence[float], values: Sequence[float]) -> float:
    """Return the median slope between all pairs of samples, a second."""
    at, value = np.asarray(times, float), np.asarray(values, float)
    first, second = np.triu_indices(len(at), 1)
    return float(np.median((value[second] - value[first]) / (at[second] - at[first])))


def judge_level(series: Series) -> Verdict:
    """Judge a figure that floats, such as memory in bytes."""
    values = np.asarray(series.values, float)
    _check(series)
    third = max(1, len(values) // 3)
    steady = theil_sen(series.times, series.values) * (series.times[-1] - series.times[0])
    apart = float(np.median(values[-third:]) - np.median(values[:third]))
    plateau = float(np.median(values))
    bound = max(MEMORY_GROWTH_MAX_BYTES, MEMORY_GROWTH_MAX_SHARE * plateau)
    return _verdict(series, min(steady, apart), bound)


def judge_count(series: Series, slack: int = 0) -> Verdict:
    """Judge a figure that may not pass what it once had by more than ``slack``."""
    _check(series)
    half = len(series.values) // 2
    growth = max(series.values[half:]) - max(series.values[:half])
    return _verdict(series, growth, slack)


def judge(samples: Sequence[Series], slacks: Mapping[tuple[str, str], int]) -> list[Verdict]:
    """Judge every series; ``slacks``: of counts, by the figure and the kind of its subject."""
    return [
        judge_level(each)
        if each.figure == "memory"
        else judge_count(each, slacks.get((each.figure, each.subject.partition("-")[0]), 0))
        for each in samples
    ]


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """Draw ``values`` in one line, from their lowest to their highest."""
    parts = np.array_split(np.asarray(values, float), min(width, len(values)))
    means = np.array([part.mean() for part in parts])
    span = means.max() - means.min()
    if not span:
        return _SPARKS[0] * len(means)
    steps = ((means - means.min()) / span * (len(_SPARKS) - 1)).round().astype(int)
    return "".join(_SPARKS[step] for step in steps)


def _check(series: Series) -> None:
    if len(series.values) < SAMPLES_MIN:
        raise ValueError(
            f"{series.subject}, {series.figure}: {len(series.values)} samples say nothing; "
            f"{SAMPLES_MIN} are the least"
        )


def _verdict(series: Series, growth: float, bound: float) -> Verdict:
    return Verdict(
        series.subject,
        series.figure,
        float(np.median(np.asarray(series.values, float))),
        max(series.values),
        growth,
        bound,
        growth > bound,
        sparkline(series.values),
    )
