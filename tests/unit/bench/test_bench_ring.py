"""The ring's bench runs from end to end in its smoke size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[3]


@pytest.mark.timeout(300)
def test_the_smoke_run_ends_with_one_json_object(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "ring", "--json", "--smoke"]
    with (tmp_path / "progress").open("w+") as progress:
        done = subprocess.run(
            command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=progress, text=True, timeout=280
        )
        progress.seek(0)
        assert done.returncode == 0, progress.read()
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["suite"] == "ring"
    rows = {(row["name"], row["peer"]): row for row in report["rows"]}
    for size in ("80 B", "1 KiB", "64 KiB"):
        for percentile in ("p50", "p90", "p99", "p99.9", "p99.99"):
            assert rows[f"python reader {size} one-way {percentile}", "pyzmq ipc"]["ratio"] > 0
    assert rows["python reader 80 B one-way p50", "pyzmq ipc"]["target"] == 60
    assert rows["python reader 80 B one-way p50", "iceoryx2"]["target"] == 6
    floor = rows["C reader 80 B one-way p50", "half a bare cache-line round trip"]
    assert floor["theirs"] > 0
    assert not list(Path("/dev/shm").glob("sprint.bench-*"))


def test_an_unknown_suite_is_refused_with_the_names_of_all() -> None:
    command = [sys.executable, "-m", "bench", "nothing"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "ring" in done.stderr
