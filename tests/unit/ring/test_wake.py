"""The one object that readers may write, and what they can do with it."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from collections.abc import Callable

import pytest
from ring_tools import publish

from bitcoin_sprint.native import lib
from bitcoin_sprint.ring import Reader, Ring, Writer, layout, segment

Make = Callable[..., Writer]


def _flag(instance: str, name: str) -> int:
    raw = layout.wake_path(instance).read_bytes()
    at = layout.wake_offset(name)
    return int.from_bytes(raw[at : at + 4], "little")


def _asleep(instance: str, name: str = "blocks") -> None:
    while _flag(instance, name) == 0:
        pass


def _sleeper(reader: Reader, got: list[int]) -> threading.Thread:
    def run() -> None:
        frame = reader.wait(30)
        got.append(frame.sequence if frame else 0)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_sleeper_raises_its_rings_flag_and_the_writer_takes_it_down(
    make_writer: Make, instance: str
) -> None:
    writers = {name: make_writer(name) for name in ("blocks", "tx")}
    for name, writer in writers.items():
        got: list[int] = []
        thread = _sleeper(Ring.attach(instance, name).reader(), got)
        _asleep(instance, name)
        publish(writer)
        thread.join()
        assert got == [1]
    assert (_flag(instance, "blocks"), _flag(instance, "tx")) == (0, 0)


def test_a_reader_that_may_not_write_it_polls_by_time(make_writer: Make, instance: str) -> None:
    writer = make_writer()
    layout.wake_path(instance).unlink()
    got: list[int] = []
    thread = _sleeper(Ring.attach(instance, "blocks").reader(), got)
    publish(writer)
    thread.join()
    assert got == [1]


def test_a_truncated_object_kills_nobody_and_is_mended(
    make_writer: Make, instance: str, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make_writer()
    reader = Ring.attach(instance, "blocks").reader()
    assert reader.wait(0.001) is None
    os.truncate(layout.wake_path(instance), 0)
    assert reader.wait(0.001) is None
    for _ in range(3):
        publish(writer)
        assert reader.wait(5) is not None
    writer.heartbeat()
    assert "damaged by a reader" in caplog.text
    assert layout.wake_path(instance).stat().st_size >= layout.WAKE_BYTES
    got: list[int] = []
    thread = _sleeper(reader, got)
    _asleep(instance)
    publish(writer)
    thread.join()
    assert got == [4]
    assert _flag(instance, "blocks") == 0


def test_noise_in_it_costs_nothing_but_wake_ups(make_writer: Make, instance: str) -> None:
    writer = make_writer()
    reader = Ring.attach(instance, "blocks").reader()
    for _ in range(20):
        with open(layout.wake_path(instance), "r+b") as file:
            file.write(os.urandom(layout.WAKE_BYTES))
        publish(writer)
        writer.heartbeat()
        assert reader.wait(5) is not None
    assert reader.frames_lost == 0


def test_what_a_dead_writer_left_is_used_again(make_writer: Make, instance: str) -> None:
    make_writer().close(unlink=False)
    inode = layout.wake_path(instance).stat().st_ino
    writer = make_writer()
    assert layout.wake_path(instance).stat().st_ino == inode
    writer.close()
    assert not layout.wake_path(instance).exists()


def test_a_reader_finds_a_new_object_by_itself(make_writer: Make, instance: str) -> None:
    writer = make_writer()
    reader = Ring.attach(instance, "blocks").reader()
    assert reader.wait(0.001) is None
    writer.close(unlink=False)
    layout.wake_path(instance).unlink()
    writer = make_writer()
    got: list[int] = []
    thread = _sleeper(reader, got)
    _asleep(instance)
    publish(writer)
    thread.join()
    assert got == [1]


def test_a_lock_that_a_reader_holds_on_it_stops_no_writer(make_writer: Make, instance: str) -> None:
    first = make_writer()
    first.close(unlink=False)
    with open(layout.wake_path(instance), "r+b") as file:
        assert segment.set_lock(file.fileno(), fcntl.F_WRLCK)
        writer = make_writer()
        assert publish(writer) == 1
        writer.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_reader_of_another_user_without_write_access_still_reads(
    make_writer: Make, instance: str
) -> None:
    writer = make_writer(mode=0o644)
    layout.wake_path(instance).chmod(0o644)
    told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        reader = Ring.attach(instance, "blocks").reader()
        os.write(told[1], b"r")
        os._exit(0 if reader.wait(20) is not None else 1)
    os.read(told[0], 1)
    publish(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for end in told:
        os.close(end)


def test_its_page_says_what_it_is(make_writer: Make, instance: str) -> None:
    make_writer()
    assert layout.wake_path(instance).read_bytes()[:8] == b"SPRTWAKE"
    assert stat.S_ISREG(layout.wake_path(instance).stat().st_mode)
    assert layout.wake_offset("tx") + 4 <= lib.SP_WAKE_BYTES
