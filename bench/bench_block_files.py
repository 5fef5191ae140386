"""How fast block files are read, plain and obscured, beside reading the same file by read(2)."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.report import Effort, Report, Row, grid, progress
from bitcoin_sprint.chains import network
from bitcoin_sprint.ingest.block_files import blocks_in
from bitcoin_sprint.ingest.block_records import StoredBlock
from bitcoin_sprint.ingest.block_windows import KEY_BYTES, READ_BYTES

_MIB = {Effort.FULL: 512, Effort.QUICK: 128, Effort.SMOKE: 16}
_ROUNDS = {Effort.FULL: 7, Effort.QUICK: 5, Effort.SMOKE: 1}
_BLOCK_BYTES = 1_700_000
_NETWORK = network("main")


def run(effort: Effort) -> Report:
    """Measures with everything in the page cache: the processor's part, not a disk's."""
    key = random.Random(1).randbytes(KEY_BYTES)
    with tempfile.TemporaryDirectory(prefix="sprint-bench-", dir="/dev/shm") as name:
        plain, obscured = Path(name, "plain"), Path(name, "obscured")
        for folder in (plain, obscured):
            folder.mkdir()
        content = _content(_MIB[effort] << 20)
        (plain / "blk00000.dat").write_bytes(content)
        (obscured / "blk00000.dat").write_bytes(_obscured(content, key))
        (obscured / "xor.dat").write_bytes(key)
        progress(f"reading {len(content) >> 20} MiB of blocks, {_ROUNDS[effort]} times each")
        rates = {
            label: max(_rate(read, folder / "blk00000.dat") for _ in range(_ROUNDS[effort]))
            for label, read, folder in (
                ("read(2)", _read_alone, plain),
                ("plain", _read_blocks, plain),
                ("obscured", _read_blocks, obscured),
            )
        }
    report = Report("block_files")
    report.rows = [
        Row(f"{label} MB/s", rates[label], "MB/s", "read(2)", rates["read(2)"],
            higher_is_better=True)
        for label in ("plain", "obscured")
    ]  # fmt: skip
    lines: list[tuple[str, list[float | None]]] = [(name, [rate]) for name, rate in rates.items()]
    report.tables.append(grid("Block files in the page cache", ["MB/s"], lines))
    return report


def _content(size: int) -> bytes:
    block = random.Random(2).randbytes(_BLOCK_BYTES)
    record = _NETWORK.magic + _BLOCK_BYTES.to_bytes(4, "little") + block
    return record * (size // len(record))


def _obscured(content: bytes, key: bytes) -> bytes:
    repeated = (key * (len(content) // KEY_BYTES + 1))[: len(content)]
    mixed = int.from_bytes(content, "little") ^ int.from_bytes(repeated, "little")
    return mixed.to_bytes(len(content), "little")


def _rate(read: Callable[[Path], int], path: Path) -> float:
    began = time.perf_counter()
    count = read(path)
    return count / (time.perf_counter() - began) / 1e6


def _read_blocks(path: Path) -> int:
    return sum(
        len(found.raw) for found in blocks_in(path, _NETWORK) if isinstance(found, StoredBlock)
    )


def _read_alone(path: Path) -> int:
    room = bytearray(READ_BYTES)
    descriptor = os.open(path, os.O_RDONLY)
    total = 0
    while count := os.preadv(descriptor, [room], total):
        total += count
    os.close(descriptor)
    return total
