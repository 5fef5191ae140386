"""Whose heartbeat counts as missing, and for how long."""

import os

import pytest

from bitcoin_sprint.control.pulse import Pulse
from bitcoin_sprint.metrics import Counters


@pytest.fixture
def counters():
    counters = Counters.create(f"test-pulse-{os.getpid()}", "ingest", [])
    yield counters
    counters.close()


@pytest.fixture
def pulse(counters):
    pulse = Pulse(f"test-pulse-{os.getpid()}", counters.process, os.getpid())
    yield pulse
    pulse.close()


def test_silence_adds_up_and_a_beat_ends_it(counters, pulse):
    for second in range(5):
        pulse.look(100 + second, 1)
    assert pulse.silent_s == 4
    counters.heartbeat()
    pulse.look(105, 1)
    assert pulse.silent_s == 0
    pulse.look(106, 1)
    assert pulse.silent_s == 1


@pytest.mark.usefixtures("counters")
def test_time_in_which_we_did_not_run_ourselves_does_not_count(pulse):
    pulse.look(100, 1)
    pulse.look(100 + 8 * 3600, 1)  # the host was suspended over night
    assert pulse.silent_s == 2


def test_without_counters_nobody_is_silent():
    pulse = Pulse("test-pulse-nobody", "ingest", os.getpid())
    pulse.look(100, 1)
    pulse.look(200, 1)
    assert pulse.silent_s == 0


@pytest.mark.usefixtures("counters")
def test_the_counters_of_a_predecessor_say_nothing():
    pulse = Pulse(f"test-pulse-{os.getpid()}", "ingest", os.getpid() + 1)
    pulse.look(100, 1)
    pulse.look(101, 1)
    assert pulse.silent_s == 0
