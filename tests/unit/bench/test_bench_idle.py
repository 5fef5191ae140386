"""The bench of an idle engine runs from end to end in its smoke size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[3]


def test_the_smoke_run_ends_with_one_json_object_and_leaves_nothing() -> None:
    command = [sys.executable, "-m", "bench", "idle", "--json", "--smoke"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert row["unit"] == "% of a core"
    assert row["ours"] >= 0
    assert row["theirs"] == 2.0
    assert not list(Path("/dev/shm").glob("sprint.bench-idle-*"))
