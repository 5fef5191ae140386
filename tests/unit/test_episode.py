"""A source's trouble is told once, whatever the source does."""

from __future__ import annotations

import logging

import pytest

from bitcoin_sprint.episode import STEADY_S, Episode
from bitcoin_sprint.ingest.source_state import SourceState


class Told:
    """An episode with a clock that the test holds, and what it logged."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self._caplog = caplog
        self.now = 1_000.0
        self.episode: Episode[SourceState] = Episode("node-a", clock=lambda: self.now)

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self._caplog.records]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    return Told(caplog)


def test_an_hour_of_failures_is_two_lines(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3_600):
        told.episode.fail(SourceState.DOWN, "can't be reached")
        told.now += 1.0
    assert told.episode.state is SourceState.DOWN
    told.episode.end()
    assert told.lines == [
        "node-a: can't be reached; trying on",
        "node-a: well again after 3600.0 s",
    ]
    end = caplog.records[-1]
    assert (end.attempts, end.lasted_s) == (3_600, 3_600.0)  # type: ignore[attr-defined]
    assert told.episode.state is None
    assert told.episode.text == ""


def test_each_cause_within_an_episode_is_told_once(told: Told) -> None:
    for _ in range(10):
        told.episode.fail(SourceState.DOWN, "down")
        told.episode.fail(SourceState.WARMING_UP, "is starting")
    assert told.lines == ["node-a: down; trying on", "node-a: is starting; trying on"]
    assert told.episode.count == 1


def test_a_source_that_comes_and_goes_is_told_of_until_it_holds(told: Told) -> None:
    for _ in range(500):
        told.episode.fail(SourceState.DOWN, "lost", is_attempt=False)
        told.now += 2.0
        told.episode.end()
        told.now += 5.0
    assert told.lines == [
        "node-a: lost; trying on",
        "node-a: well again after 2.0 s",
        "node-a: lost; told again once it holds 30 s",
    ]
    assert told.episode.count == 1
    told.now += STEADY_S
    told.episode.settle()
    assert told.lines[3:] == ["node-a: well again after 3495.0 s"]
    told.episode.settle()
    assert len(told.lines) == 4


def test_trouble_long_after_a_recovery_is_a_new_episode(told: Told) -> None:
    for _ in range(2):
        told.episode.fail(SourceState.DOWN, "lost")
        told.now += 1.0
        told.episode.end()
        told.now += STEADY_S
    assert told.lines == ["node-a: lost; trying on", "node-a: well again after 1.0 s"] * 2
    assert told.episode.count == 2


def test_a_state_is_found_again_by_its_word() -> None:
    assert [SourceState.of(state.word) for state in SourceState] == list(SourceState)
