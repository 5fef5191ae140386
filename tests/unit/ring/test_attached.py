"""Attach to what is there: rings, ruins, and things that are no rings."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from ring_tools import publish

from bitcoin_sprint.errors import Corrupt, HostError, NotRunningError
from bitcoin_sprint.native import ffi
from bitcoin_sprint.ring import Ring, Writer, layout

Make = Callable[..., Writer]


def test_a_ring_that_is_not_there_is_named(instance: str) -> None:
    with pytest.raises(NotRunningError, match=f"sprint.{instance}.tx: open: No such file"):
        Ring.attach(instance, "tx")


def test_a_ring_that_is_being_made_is_not_running_yet(instance: str) -> None:
    path = layout.segment_path(instance, "tx")
    path.touch()
    with pytest.raises(NotRunningError, match="being created"):
        Ring.attach(instance, "tx")
    os.truncate(path, 1 << 20)
    with pytest.raises(NotRunningError, match="being created"):
        Ring.attach(instance, "tx")


@pytest.mark.parametrize("size", [1, 4095, 8191])
def test_a_file_too_short_for_a_header_is_corrupt(instance: str, size: int) -> None:
    layout.segment_path(instance, "tx").write_bytes(b"\xaa" * size)
    with pytest.raises(Corrupt, match=f"truncated to {size} bytes"):
        Ring.attach(instance, "tx")


@pytest.mark.parametrize("size", [8192, 1 << 20])
def test_noise_is_corrupt_and_never_a_crash(instance: str, size: int) -> None:
    path = layout.segment_path(instance, "tx")
    for _ in range(20):
        path.write_bytes(os.urandom(size))
        with pytest.raises(Corrupt, match="not a ring's"):
            Ring.attach(instance, "tx")


def test_a_noisy_header_behind_the_right_magic_is_refused(instance: str) -> None:
    path = layout.segment_path(instance, "tx")
    for _ in range(200):
        head = b"SPRTRING" + struct.pack("<II", 1, 1) + os.urandom(4080)
        path.write_bytes(head + os.urandom(8192))
        with pytest.raises(Corrupt, match=r"slot count|arena|slots at|segment of"):
            Ring.attach(instance, "tx")


@pytest.mark.parametrize("size", [8192, 40_000, 75_000])
@pytest.mark.usefixtures("writer")
def test_a_truncated_ring_is_corrupt(instance: str, size: int) -> None:
    whole = layout.segment_path(instance, "blocks").read_bytes()
    layout.segment_path(instance, "tx").write_bytes(whole[:size])
    with pytest.raises(Corrupt, match=f"in a file of {size}"):
        Ring.attach(instance, "tx")


@pytest.mark.usefixtures("writer")
def test_another_layout_version_is_told_apart_from_damage(instance: str) -> None:
    whole = bytearray(layout.segment_path(instance, "blocks").read_bytes())
    struct.pack_into("<I", whole, ffi.offsetof("sp_header", "layout_version"), 9)
    layout.segment_path(instance, "tx").write_bytes(whole)
    with pytest.raises(Corrupt, match="layout version is 9, this program reads 1"):
        Ring.attach(instance, "tx")


def test_a_symbolic_link_is_not_followed(instance: str, tmp_path: Path) -> None:
    layout.segment_path(instance, "tx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises((HostError, NotRunningError), match="open:"):
        Ring.attach(instance, "tx")
    with pytest.raises(HostError):
        Writer.create(instance, "tx", slot_count=4, arena_bytes=4096)
    assert not (tmp_path / "elsewhere").exists()


def test_a_pipe_under_a_rings_name_is_refused_and_holds_nobody_up(instance: str) -> None:
    os.mkfifo(layout.segment_path(instance, "tx"))
    os.mkfifo(layout.wake_path(instance))
    held_up = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(60)  # an open that waits for the pipe's other end starts over after a handler
    try:
        with pytest.raises(Corrupt, match="not a regular file"):
            Ring.attach(instance, "tx")
        for name in ("tx", "blocks"):
            with pytest.raises(HostError, match="not a regular file, it belongs to"):
                Writer.create(instance, name, slot_count=4, arena_bytes=4096)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, held_up)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_ring_of_another_user_is_a_clear_error(instance: str) -> None:
    with Writer.create(instance, "tx", slot_count=4, arena_bytes=4096, mode=0o600):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.setuid(65534)
                try:
                    Ring.attach(instance, "tx")
                except HostError as refused:
                    code = 0 if "Permission denied" in str(refused) else 2
                try:
                    Writer.create(instance, "tx", slot_count=4, arena_bytes=4096)
                    code = 3
                except HostError as refused:
                    code = code if "belongs to root" in str(refused) else 4
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize(
    ("field", "format_text", "value", "text"),
    [("length", "<I", 1 << 30, "1073741824 bytes at position"),
     ("length", "<I", 70_000, "70000 bytes at position"),
     ("position", "<Q", 65_535, "leave the arena")],
)  # fmt: skip
def test_a_descriptor_out_of_bounds_is_corrupt_and_named(
    writer: Writer, instance: str, field: str, format_text: str, value: int, text: str
) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    publish(writer)
    path = layout.segment_path(instance, "blocks")
    with open(path, "r+b") as file:
        offset = layout.SLOTS_OFFSET + layout.SLOT_BYTES + ffi.offsetof("sp_descriptor", field)
        file.seek(offset)
        file.write(struct.pack(format_text, value))
    with pytest.raises(Corrupt, match=f"frame 1: .*{text}"):
        reader.poll()


def test_a_sequence_from_the_future_is_corrupt_and_named(writer: Writer, instance: str) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    publish(writer)
    publish(writer)
    reader.poll()
    with open(layout.segment_path(instance, "blocks"), "r+b") as file:
        file.seek(layout.SLOTS_OFFSET + 3 * layout.SLOT_BYTES)
        file.write(struct.pack("<Q", 1 << 40))
    reader.poll()
    with pytest.raises(Corrupt, match="slot of frame 3 is ahead, but the newest frame is 2"):
        reader.poll()
