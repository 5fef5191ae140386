"""Kill parts of an engine at random, again and again, under load: it is back, and nobody who
reads what it serves sees a wrong byte. 12 killings here, each way of killing among them;
SPRINT_STRESS_ENGINE_KILLINGS=100 is the full run."""

from __future__ import annotations

import os

import pytest
from engine_killings import report, run

KILLINGS = int(os.environ.get("SPRINT_STRESS_ENGINE_KILLINGS", "12"))


@pytest.mark.timeout(120 + 10 * KILLINGS)
def test_an_engine_survives_its_parts_and_its_readers_see_no_wrong_byte() -> None:
    outcome = run(f"killings-{os.getpid()}", KILLINGS)
    print(report(outcome))
    assert outcome.exit_code == 0
    assert outcome.leftovers == []
    rings = [seen for seen in outcome.seen if seen.name.startswith("ring")]
    for seen in outcome.seen:
        assert seen.wrong == "", seen
        assert seen.received > 10 * KILLINGS
    for seen in rings:
        # Attached throughout: nothing lost, one session, an epoch for each death of the writer
        # that had come to write.
        assert seen.received + seen.overwritten == seen.last - seen.first + 1
        assert seen.lost == 0
        assert len(seen.sessions) == 1
        assert 1 < len(seen.epochs) <= outcome.killings["ingest"] + 1
    heads = [seen.last for seen in rings]
    assert heads[:2] == heads[2:]  # two readers of each ring, two ways of waiting
