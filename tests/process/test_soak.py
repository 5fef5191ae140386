"""The soak's short form: by what goes by in half a minute, nothing in the engine grows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bitcoin_sprint.tiers import TIERS

_ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.timeout(240)
def test_memory_descriptors_threads_and_shared_memory_of_every_process_are_flat() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "bench.soak", "--short", "--json"],
        capture_output=True, text=True, cwd=_ROOT, timeout=220, check=False,
    )  # fmt: skip
    assert ended.stdout, ended.stderr
    found = json.loads(ended.stdout)
    growing = [row for row in found["rows"] if row["grows"]]
    assert not growing, f"{growing}\n{found['done']}"
    assert ended.returncode == 0, ended.stderr
    subjects = {row["subject"] for row in found["rows"] if row["figure"] == "memory"}
    assert subjects >= {"sprintd", "nursery", "sim", "ingest", *(f"relay-{tier}" for tier in TIERS)}
    assert {"blocks", "tx", "wake"} <= {
        row["subject"] for row in found["rows"] if row["figure"] == "shared memory"
    }
    load = found["done"]["load"]
    assert all(load[f"followed.{tier}"] for tier in TIERS)
    assert load["visits"] > 50
    assert load["lapped_frames"] > 0
    assert not list(Path("/dev/shm").glob("sprint.soak-*"))
