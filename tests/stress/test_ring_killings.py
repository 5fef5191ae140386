"""Kill the writer at random, again and again: successors go on, readers lose nothing whole."""

from __future__ import annotations

import os

from ring_killings import run
from ring_tools import objects

KILLINGS = int(os.environ.get("SPRINT_STRESS_KILLINGS", "100"))


def test_a_killed_writer_loses_no_whole_frame_and_repeats_no_number() -> None:
    instance = f"killtest-{os.getpid()}"
    head, (one, other) = run(instance, KILLINGS)
    assert head > KILLINGS
    for seen in (one, other):
        assert seen.wrong == ""
        assert seen.received + seen.lost == head
        assert len(seen.epochs) > KILLINGS // 10
    both = one.numbers.keys() & other.numbers.keys()
    assert both
    assert all(one.numbers[sequence] == other.numbers[sequence] for sequence in both)
    assert objects(instance) == []
