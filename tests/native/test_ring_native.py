"""The ring's C by itself: under sanitizers, at the brink of sleep, and read from C and C++."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from ring_tools import objects, publish

from bitcoin_sprint.ring import Writer

ROOT = Path(__file__).parents[2]
HERE = ROOT / "tests" / "native"
WRITER = [ROOT / "native" / name for name in ("ring.c", "ring_segment.c", "crc32c.c")]
STRICT = ["-g", "-Wall", "-Wextra", "-Wshadow", "-Wpointer-arith", "-Werror"]
INCLUDES = [f"-I{ROOT / 'native'}", f"-I{ROOT / 'native' / 'include'}", f"-I{HERE}"]
ADDRESS = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
THREAD = ["-O1", "-fsanitize=thread", "-DSP_TSAN", "-Wno-tsan"]

Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Compile tests/native/<source> with the writer's C, warnings as errors."""

    def compile_it(
        source: str, *flags: str, compiler: str = "", writer: Sequence[Path] = WRITER
    ) -> Path:
        program = tmp_path / "program"
        command = [
            compiler or os.environ.get("CC") or shutil.which("cc") or "cc",
            *STRICT, *INCLUDES, *flags, str(HERE / source), *map(str, writer),
            "-lpthread", "-o", str(program),
        ]  # fmt: skip
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stderr
        return program

    return compile_it


def _run(*command: object) -> str:
    done = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=1"},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def _sanitized(build: Build, flags: list[str], frames: int) -> str:
    program = build("ring_threads.c", "-std=c11", "-D_GNU_SOURCE", *flags)
    return _run(program, frames, 4, 1)


def test_threads_under_address_and_undefined_behaviour_sanitizers(build: Build) -> None:
    out = _sanitized(build, ADDRESS, 60_000)
    assert int(out.rsplit("revocations ", 1)[1]) > 0


def test_threads_under_the_thread_sanitizer(build: Build) -> None:
    out = _sanitized(build, THREAD, 4_000)
    assert out.count("received") == 4


def test_threads_at_full_speed(build: Build) -> None:
    out = _sanitized(build, ["-O2"], 300_000)
    laps = [int(line.split()[-1]) for line in out.splitlines()[:-1]]
    assert sum(laps) > 0


@pytest.mark.parametrize("readers", [1, 3])
def test_no_wake_up_is_lost_at_any_moment_of_falling_asleep(build: Build, readers: int) -> None:
    program = build("ring_wake.c", "-std=c11", "-D_GNU_SOURCE", "-O2")
    sleeps, overslept = _run(program, 30_000, readers).split()[1::2]
    assert int(overslept) == 0
    assert int(sleeps) > 1_000


def test_whatever_the_writer_does_at_any_moment_of_a_readers_poll_is_accounted_for(
    build: Build,
) -> None:
    program = build("ring_moments.c", "-std=gnu11", "-O1", writer=WRITER[1:])
    assert int(_run(program).split()[1]) > 10_000


@pytest.mark.parametrize("sanitizers", [["-O1"], ADDRESS], ids=["plain", "sanitized"])
def test_at_each_of_the_writers_stores_readers_are_told_the_truth_and_a_successor_goes_on(
    build: Build, sanitizers: list[str]
) -> None:
    program = build("ring_stores.c", "-std=gnu11", *sanitizers, writer=WRITER[1:])
    counts = dict(zip(*[iter(_run(program, 2_000).split())] * 2, strict=True))
    assert counts["deaths"] == counts["moments"]
    assert int(counts["moments"]) > 10_000
    assert int(counts["whole"]) > 10_000
    assert int(counts["revocations"]) > 100


@pytest.mark.parametrize("language", ["c11", "c++17"])
def test_a_program_with_the_header_alone_reads_what_python_publishes(
    build: Build, language: str
) -> None:
    flags = [f"-std={language}", "-Wpedantic", "-O2", "-x", "c" if language == "c11" else "c++"]
    compiler = "" if language == "c11" else os.environ.get("CXX") or shutil.which("c++") or ""
    if language != "c11" and not compiler:
        pytest.skip("no C++ compiler")
    program = build("ring_read.c", *flags, compiler=compiler, writer=[])
    instance = f"nativetest-{os.getpid()}"
    try:
        with Writer.create(instance, "tx", slot_count=64, arena_bytes=1 << 16) as writer:
            writer.set_source(5, "a node")
            publish(writer, b"A", height=7, source=5)
            child = subprocess.Popen(
                [program, instance, "tx"], stdout=subprocess.PIPE, text=True
            )  # fmt: skip
            assert child.stdout is not None
            assert child.stdout.readline() == "attached epoch 1 alive 1\n"
            for number in range(2, 30):
                publish(writer, bytes([number]) * number, source=5)
        out, _ = child.communicate(timeout=30)
        expected = ["1 16 7 1 65 a node"]
        expected += [f"{n} 16 -1 {n} {n} a node" for n in range(2, 30)]
        assert out.splitlines() == [*expected, "end -6 lost 0"]
        assert child.returncode == 0
        assert objects(instance) == []
    finally:
        for path in objects(instance):
            path.unlink()


def test_the_header_says_what_is_wrong_with_a_ring_that_is_not_there(build: Build) -> None:
    program = build("ring_read.c", "-std=c11", writer=[])
    done = subprocess.run([program, "no-such", "tx"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "error -1 open: No such file or directory\n")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone")
def test_the_header_compiles_as_a_program_of_its_own_without_other_headers_before_it(
    tmp_path: Path,
) -> None:
    source = tmp_path / "alone.c"
    source.write_text('#include "sprint.h"\nint main(void) { return 0; }\n')
    command = ["cc", "-std=c11", *STRICT, "-Wpedantic", *INCLUDES, str(source)]
    built = subprocess.run(
        [*command, "-o", str(tmp_path / "alone")], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
