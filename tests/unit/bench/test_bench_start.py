"""The bench of starts runs from end to end in its smoke size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[3]


def test_the_smoke_run_ends_with_one_json_object_and_leaves_nothing() -> None:
    command = [sys.executable, "-m", "bench", "start", "--json", "--smoke"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [row["name"] for row in rows] == [
        "simulated node: to the first frame, median",
        "simulated node: to the first frame, worst",
        "simulated node: stop, worst",
        "simulated node: processor time, median",
    ]
    assert all(row["ours"] > 0 and row["unit"] == "s" for row in rows)
    assert [row["theirs"] for row in rows] == [2.0, 2.0, 5.0, None]
    assert not list(Path("/dev/shm").glob("sprint.bench-start-*"))
