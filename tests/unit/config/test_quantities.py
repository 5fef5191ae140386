"""Durations and sizes as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitcoin_sprint.config.quantities import (
    format_duration,
    format_size,
    format_speed,
    parse_duration,
    parse_size,
    parse_speed,
)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("500us", 500_000),
        ("500µs", 500_000),
        ("500μs", 500_000),
        ("1.5s", 1_500_000_000),
        (" 10 ms ", 10_000_000),
        ("0s", 0),
        ("5min", 300_000_000_000),
        ("2h", 7_200_000_000_000),
        ("1d", 86_400_000_000_000),
        ("7ns", 7),
    ],
)
def test_durations_are_read_with_their_unit(text, nanoseconds):
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "500", "us", "-1s", "1e3s", "5 parsecs", "0.1ns", "1s 2s"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="must be"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("256MiB", 256 << 20), ("1.5KiB", 1536), ("1GB", 10**9), ("4096B", 4096), ("2GiB", 2 << 30)],
)
def test_sizes_are_read_with_their_unit(text, size_bytes):
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["256", "256mib", "-1B", "0.5B", "MiB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="must be"):
        parse_size(text)


def test_contract_values_are_written_as_the_contract_spells_them():
    assert format_duration(500_000) == "500µs"
    assert format_duration(200_000) == "200µs"
    assert format_duration(1_500_000_000) == "1.5s"
    assert format_duration(2_000_000_000) == "2s"
    assert format_duration(0) == "0s"


@pytest.mark.parametrize(
    ("text", "speed", "written"),
    [("full", 0, "full"), ("1x", 1, "1x"), (" 60 x", 60, "60x"), ("0.5x", 0.5, "0.5x")],
)
def test_speeds_are_factors_of_recorded_time(text, speed, written):
    assert parse_speed(text) == speed
    assert format_speed(parse_speed(text)) == written


@pytest.mark.parametrize("text", ["", "60", "x", "0x", "-1x", "1e3x", "fast"])
def test_what_is_no_speed_is_refused(text):
    with pytest.raises(ValueError, match="must be full, or a factor of recorded time"):
        parse_speed(text)


@given(st.integers(0, 10**16))
def test_a_written_duration_reads_back_the_same(nanoseconds):
    assert parse_duration(format_duration(nanoseconds)) == nanoseconds


@given(st.integers(0, 1 << 40))
def test_a_written_size_reads_back_the_same(size_bytes):
    assert parse_size(format_size(size_bytes)) == size_bytes
