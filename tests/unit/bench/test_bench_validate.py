"""The bench of the proof runs from end to end in its smoke size."""

import pytest
from bench.bench_validate import run
from bench.contestants.sha256 import known_variants
from bench.report import Effort

from bitcoin_sprint.native import ffi, lib


def test_every_contestant_is_measured_and_absent_ones_are_shown_as_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SPRINT_TEST_DATA", raising=False)
    report = run(Effort.SMOKE)
    there = {bytes(ffi.string(lib.sp_sha256_variant_at(i).name)).decode() for i in range(4)
             if lib.sp_sha256_variant_at(i) != ffi.NULL}  # fmt: skip
    for shape in ("250 B", "64 B, 1024 together, hashed twice"):
        rows = {row.peer: row for row in report.rows if row.name == f"SHA-256 of {shape}"}
        assert {f"our {name}" for name in known_variants()} | {"OpenSSL", "hashlib"} <= set(rows)
        together = shape != "250 B"
        for name in known_variants():
            if name not in there:
                assert rows[f"our {name}"].theirs is None
            elif together or name == "portable":
                assert (rows[f"our {name}"].theirs or 0) > 0
        judged = [row for row in rows.values() if row.target is not None]
        assert [row.target for row in judged] == [0.9]
        assert (judged[0].ratio or 0) > 0
    rows = {row.name: row for row in report.rows}
    for megabytes in (1, 2):
        left = rows[f"left after the last byte, {megabytes} MB of made transactions, median"]
        assert left.ours > 0
        assert (left.theirs, left.target) == (100, 1)
    sizes = rows["left after the last byte, 2 MB, median"]
    assert sizes.theirs is not None
    assert sizes.target == pytest.approx(1 / 1.2)
    for name in there:
        assert rows[f"left after the last byte, 2 MB of made transactions, by {name}"].ours > 0
    assert "absent" in report.tables[0]
