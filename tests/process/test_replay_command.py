"""``sprint replay`` on files of its own: what it says of them, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from regtest_blocks import REGTEST, chain_of

from bitcoin_sprint.control.status import read_snapshot

BLOCKS = [block.raw for block in chain_of(40)]
COMMAND = [sys.executable, "-m", "bitcoin_sprint.control.cli", "replay", "--network", "regtest"]
SMALL = ["--set", "ring.blocks_arena=32MiB", "--set", "ring.tx_arena=8MiB", "--tier", "free"]


def framed(*raws: bytes) -> bytes:
    return b"".join(REGTEST.magic + len(raw).to_bytes(4, "little") + raw for raw in raws)


def ended(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *SMALL, *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_what_was_refused_is_counted_by_reason_and_fails_the_command(tmp_path: Path) -> None:
    wrong = [block[:-1] + b"\x01" for block in BLOCKS[3:5]]
    (tmp_path / "a").write_bytes(framed(*BLOCKS[:3], *wrong, *BLOCKS[3:], BLOCKS[7]))
    command = ended(tmp_path, "--json")
    assert command.returncode == 1
    summary = json.loads(command.stdout)
    assert summary["refused"] == {"bad-txnmrklroot": 2}
    assert (summary["blocks"], summary["accepted"], summary["duplicate"]) == (43, 40, 1)
    assert (summary["txs"], summary["files"], summary["done"]) == (40, 1, True)
    assert summary["bytes"] == (tmp_path / "a").stat().st_size
    assert summary["mb_per_s"] == pytest.approx(summary["bytes"] / summary["seconds"] / 1e6, abs=1)


def test_people_get_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(framed(*BLOCKS))
    command = ended(tmp_path, "--log-level", "error")
    assert (command.returncode, command.stderr) == (0, "")
    assert command.stdout.startswith("40 blocks with 40 transactions out of 1 files in ")
    assert command.stdout.endswith(" MB/s: all proved.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing"),
        ([".", "--speed", "fast"], "ingest.replay_speed = 'fast'"),
        ([".", "--delay", "soon"], "ingest.replay_delay = 'soon'"),
        (["empty"], "holds no files"),
    ],
)
def test_what_can_not_be_replayed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    command = ended(*arguments, "--log-level", "error")
    assert command.returncode == 2
    assert message in command.stderr
    assert len(command.stderr.splitlines()) == 1, command.stderr


def test_progress_is_among_the_counters_and_a_signal_stops_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(framed(*BLOCKS))
    instance = f"t{os.getpid()}-replay"
    arguments = [tmp_path, "--json", "--instance", instance, "--speed", "3000x"]
    with subprocess.Popen(
        [*COMMAND, *SMALL, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as command:  # fmt: skip
        try:
            figures = _figures_once_blocks_came(instance)
            command.send_signal(signal.SIGINT)
            stdout, stderr = command.communicate(timeout=30)
        finally:
            command.kill()
    assert figures["source.replay.files_total"] == 1
    assert 0 < figures["source.replay.bytes"] < figures["source.replay.bytes_total"]
    assert figures["source.replay.done"] == 0
    summary = json.loads(stdout)
    assert command.returncode == 1, stderr
    assert not summary["done"]
    assert 0 < summary["blocks"] < len(BLOCKS)
    assert not list(Path("/dev/shm").glob(f"sprint.{instance}.*"))


def _figures_once_blocks_came(instance: str) -> dict[str, int]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        snapshot = read_snapshot(instance, "ingest")
        if snapshot and snapshot["counters"].get("source.replay.blocks"):
            figures: dict[str, int] = snapshot["counters"]
            return figures
        time.sleep(0.05)
    raise AssertionError("no block came")
