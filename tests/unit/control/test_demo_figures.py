"""What the demo reports."""

import os

import pytest

from bitcoin_sprint.config import load
from bitcoin_sprint.control.demo_figures import Figures, read_figures
from bitcoin_sprint.metrics import Counters

_FIGURES = ("frames", "blocks", "headers", "txs", "lost")


@pytest.fixture
def config():
    return load(None, {"instance": f"test-figures-{os.getpid()}"})


def test_an_engine_that_never_served_reports_zero_for_every_tier(config):
    figures = read_figures(config)
    assert figures == Figures.none(config)
    assert list(figures.plain()["tiers"]) == ["free", "pro", "business", "turbo", "enterprise"]


def test_the_figures_of_all_tiers_come_together(config):
    names = [tier.name for tier in config.running_tiers]
    seen = Counters.create(
        config.instance,
        "demo",
        [f"{name}.{figure}" for name in names for figure in _FIGURES],
        [f"{name}.latency_ns" for name in names],
    )
    for rank, name in enumerate(names):
        for figure in _FIGURES:
            seen[f"{name}.{figure}"].add(rank)
        seen.histogram(f"{name}.latency_ns").record(1_000_000 * (rank + 1))
    figures = read_figures(config)
    relay = Counters.create(config.instance, "relay-turbo", ["frames_missed", "frames_overwritten"])
    relay["frames_missed"].add(1)
    relay["frames_overwritten"].add(1)
    explained = read_figures(config)
    relay.close()
    seen.close()
    assert (explained.tiers["turbo"].missed, explained.tiers["turbo"].overwritten) == (1, 1)
    assert explained.tiers["turbo"].gaps == 3 - 2
    assert explained.gaps == figures.gaps - 2
    assert (figures.blocks, figures.headers, figures.txs) == (4, 4, 4)
    assert figures.gaps == 0 + 1 + 2 + 3 + 4
    assert figures.tiers["turbo"].p50_us == pytest.approx(4000, rel=0.03)
    plain = figures.plain()
    assert list(plain) == ["blocks", "headers", "txs", "gaps", "tiers"]
    assert list(plain["tiers"]["free"]) == [
        "frames",
        "p50_us",
        "p99_us",
        "max_us",
        "missed",
        "overwritten",
    ]
    assert "4 blocks" in figures.sentence(1.0)
