"""Histograms: bounded error, exact extremes, merging."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitcoin_sprint.metrics.histogram import (
    BUCKET_COUNT,
    EMPTY,
    VALUE_BITS_MAX,
    WORD_COUNT,
    Histogram,
    bucket_bounds,
    bucket_index,
)

_VALUE_MAX = (1 << VALUE_BITS_MAX) - 1


def _recorded(values):
    histogram = Histogram()
    histogram.record_many(values)
    return histogram.snapshot()


@given(st.integers(0, _VALUE_MAX))
def test_each_value_falls_within_its_buckets_bounds(value):
    index = bucket_index(value)
    low, high = bucket_bounds(index)
    assert low <= value <= high
    assert 0 <= index < BUCKET_COUNT
    assert high - low <= value / 32


def test_buckets_follow_one_another_without_gap_or_overlap():
    bounds = [bucket_bounds(index) for index in range(BUCKET_COUNT)]
    assert bounds[0] == (0, 0)
    assert bounds[-1][1] == _VALUE_MAX
    for (_, high), (low, _) in itertools.pairwise(bounds):
        assert low == high + 1


@given(st.lists(st.integers(0, _VALUE_MAX), min_size=1), st.floats(0, 100))
def test_a_percentile_is_off_by_three_percent_at_most(values, percent):
    snapshot = _recorded(values)
    ordered = sorted(values)
    exact = ordered[max(0, -(-int(percent * len(values) * 10**9) // 10**11) - 1)]
    # At a rank boundary float rounding may choose the neighbour.
    position = ordered.index(exact)
    near = ordered[max(0, position - 1) : position + values.count(exact) + 1]
    found = snapshot.percentile(percent)
    assert any(abs(found - value) <= value * 0.03 for value in near)


@given(st.lists(st.integers(0, _VALUE_MAX), min_size=1))
def test_extremes_count_and_mean_are_exact(values):
    snapshot = _recorded(values)
    assert snapshot.count == len(values)
    assert (snapshot.percentile(0), snapshot.percentile(100)) == (min(values), max(values))
    assert (snapshot.min, snapshot.max) == (min(values), max(values))
    assert snapshot.mean == sum(values) / len(values)


@given(st.lists(st.integers(0, _VALUE_MAX)), st.lists(st.integers(0, _VALUE_MAX)))
def test_merging_two_is_recording_both_into_one(first, second):
    assert _recorded(first).merge(_recorded(second)) == _recorded(first + second)


@given(st.lists(st.integers(0, 10**9)), st.lists(st.integers(0, 10**9)))
def test_what_was_recorded_since_a_snapshot_is_their_difference(first, second):
    histogram = Histogram()
    histogram.record_many(first)
    earlier = histogram.snapshot()
    histogram.record_many(second)
    interval, expected = histogram.snapshot().since(earlier), _recorded(second)
    assert (interval.count, interval.sum, interval.buckets) == (
        expected.count,
        expected.sum,
        expected.buckets,
    )
    assert interval.percentile(50) == pytest.approx(expected.percentile(50), rel=0.04)


def test_values_out_of_range_are_counted_at_the_ends():
    snapshot = _recorded([-5, _VALUE_MAX + 1, 1 << 63])
    assert (snapshot.count, snapshot.min, snapshot.max) == (3, 0, _VALUE_MAX)


def test_an_empty_histogram_has_zero_for_everything():
    assert Histogram().snapshot() == EMPTY
    assert EMPTY.percentile(99) == 0
    assert EMPTY.mean == 0.0


@pytest.mark.parametrize("percent", [-0.1, 100.1, float("nan")])
def test_a_percentile_outside_0_to_100_is_refused(percent):
    with pytest.raises(ValueError, match="percentile"):
        _recorded([1]).percentile(percent)


def test_words_of_the_wrong_size_are_refused():
    with pytest.raises(ValueError, match=str(WORD_COUNT)):
        Histogram(memoryview(bytearray(64)).cast("Q"))


def test_small_values_are_exact():
    values = [random.Random(7).randrange(64) for _ in range(500)]
    snapshot = _recorded(values)
    assert snapshot.percentile(50) == sorted(values)[249]
