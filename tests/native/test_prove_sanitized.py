"""The proof's C code under AddressSanitizer and UndefinedBehaviorSanitizer, over damaged blocks."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import recorded
from made_blocks import good_block

ROOT = Path(__file__).parents[2]
SOURCES = ["block.c", "header_tree.c", "merkle.c", "refusal.c", "transaction.c"]
SOURCES += ["x86.c", *(path.name for path in (ROOT / "native").glob("sha256*.c"))]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver, built with sanitizers that end the program at the first finding."""
    compiler = os.environ.get("CC") or shutil.which("cc") or "cc"
    program = tmp_path_factory.mktemp("driver") / "prove_driver"
    command = [
        compiler,
        "-std=c11",
        "-O1",
        "-g",
        "-Wall",
        "-Wextra",
        "-Wshadow",
        "-Werror",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-fno-omit-frame-pointer",
        f"-I{ROOT / 'native'}",
        str(ROOT / "tests" / "native" / "prove_driver.c"),
        *(str(ROOT / "native" / name) for name in SOURCES),
        "-lpthread",
        "-o",
        str(program),
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return program


def run(driver: Path, rounds: int, seed: int, files: list[Path]) -> dict[str, int]:
    """Verdicts and how often each fell."""
    done = subprocess.run(
        [driver, str(rounds), str(seed), *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=0"},
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    return {word: int(count) for word, count in map(str.split, done.stdout.splitlines())}


def test_made_blocks_and_ten_thousand_damaged_copies(driver: Path, tmp_path: Path) -> None:
    files = []
    for plain, witnesses in ((0, 0), (1, 0), (0, 1), (3, 3), (20, 20)):
        files.append(tmp_path / f"{plain}-{witnesses}")
        files[-1].write_bytes(good_block(plain=plain, witnesses=witnesses).raw)
    verdicts = run(driver, 2_000, 1, files)
    assert sum(verdicts.values()) == len(files) * 2_001
    assert {"proved", "truncated", "trailing-bytes", "bad-txnmrklroot"} <= set(verdicts)
    assert {"bad-witness-merkle-match", "non-canonical-size", "size-too-large"} <= set(verdicts)


@recorded.needs_data
@pytest.mark.timeout(300)
def test_recorded_blocks_and_damaged_copies(driver: Path) -> None:
    files = [recorded.path(f"bitcoin/{each.file}") for each in recorded.BLOCKS]
    files = [file for file in files if file.suffix != ".hex"]
    files += sorted(recorded.path("litecoin").glob("*.raw"))
    files += sorted(recorded.path("litecoin").glob("*.dat"))
    small = [file for file in files if file.stat().st_size < 100_000]
    large = [file for file in files if file not in small]
    assert "proved" in run(driver, 100, 2, small)
    assert "proved" in run(driver, 8, 3, large)
