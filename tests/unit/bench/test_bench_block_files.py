"""The bench of block files runs from end to end in its smoke size."""

from bench.bench_block_files import run
from bench.report import Effort


def test_plain_and_obscured_files_are_measured_beside_reading_alone() -> None:
    report = run(Effort.SMOKE)
    assert [row.name for row in report.rows] == ["plain MB/s", "obscured MB/s"]
    assert all(row.ours > 0 and row.ratio is not None for row in report.rows)
