"""Rows, ratios, targets and percentiles as the benches report them."""

from __future__ import annotations

import json

import numpy as np
from bench.oneway import percentile
from bench.report import Report, Row, grid


def test_a_latency_row_is_ahead_when_ours_is_smaller() -> None:
    row = Row("p50", ours=0.5, unit="us", peer="pyzmq ipc", theirs=40.0, target=60.0)
    assert (row.ratio, row.met) == (80.0, True)


def test_a_rate_row_is_ahead_when_ours_is_larger() -> None:
    row = Row("rate", 30.0, "MB/s", "x", theirs=60.0, target=1.0, higher_is_better=True)
    assert (row.ratio, row.met) == (0.5, False)


def test_a_row_without_a_peers_figure_claims_nothing() -> None:
    row = Row("p50", ours=0.5, unit="us", peer="iceoryx2", theirs=None, target=6.0)
    assert row.as_dict() == {
        "name": "p50", "peer": "iceoryx2", "ours": 0.5, "theirs": None, "unit": "us",
        "ratio": None, "target": 6.0, "met": None,
    }  # fmt: skip


def test_the_report_is_one_line_of_json() -> None:
    report = Report("ring", [Row("p50", ours=1 / 3, unit="us")])
    assert "\n" not in report.as_json()
    assert json.loads(report.as_json())["rows"][0]["ours"] == 0.3333


def test_the_table_names_what_missed_its_target() -> None:
    report = Report("ring", [Row("p50", 2.0, "us", "pyzmq ipc", 40.0, target=60.0)])
    assert "p50: 2 us, pyzmq ipc 40; 20x (target 60x) MISSED" in report.as_table()


def test_a_grid_has_a_column_for_each_contestant() -> None:
    text = grid("80 B", ["ours", "theirs"], [("p50", [0.5, None])])
    assert text.splitlines()[1].split() == ["ours", "theirs"]
    assert text.splitlines()[2].split() == ["p50", "0.5", "-"]


def test_a_percentile_is_a_latency_that_was_measured() -> None:
    latencies = np.arange(1, 1001, dtype=np.int64)
    assert percentile(latencies, 50) == 500
    assert percentile(latencies, 99.9) == 999
    assert percentile(latencies, 99.99) == 1000
    assert percentile(np.array([7], dtype=np.int64), 50) == 7
