"""Poll, wait, iterate, await; overruns counted, never raised."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ring_tools import publish

from bitcoin_sprint.errors import Closed
from bitcoin_sprint.native import ffi
from bitcoin_sprint.ring import Reader, Ring, Writer
from bitcoin_sprint.ring.attached import WaitMode
from bitcoin_sprint.ring.layout import segment_path

Make = Callable[..., Writer]
MODES = ["spin", "spin_then_yield", "block"]


def _count(what: str) -> int:
    """Descriptors ("fd") or threads ("task") of this process."""
    return sum(1 for _ in Path("/proc/self", what).iterdir())


def _drain(reader: Reader) -> list[int]:
    sequences = []
    while (frame := reader.poll()) is not None:
        sequences.append(frame.sequence)
    return sequences


def test_newest_starts_with_what_is_published_from_now_on(writer: Writer, instance: str) -> None:
    publish(writer)
    reader = Ring.attach(instance, "blocks").reader("newest")
    assert reader.poll() is None
    assert reader.sequence == 2
    publish(writer)
    assert _drain(reader) == [2]


def test_oldest_starts_with_what_is_still_there(writer: Writer, instance: str) -> None:
    for _ in range(20):
        publish(writer)
    reader = Ring.attach(instance, "blocks").reader("oldest")
    assert _drain(reader) == list(range(5, 21))
    assert reader.frames_lost == 0


def test_a_number_starts_there_and_what_of_it_is_gone_counts_as_lost(
    writer: Writer, instance: str
) -> None:
    for _ in range(20):
        publish(writer)
    ring = Ring.attach(instance, "blocks")
    assert _drain(ring.reader(18)) == [18, 19, 20]
    assert ring.reader(21).poll() is None
    reader = ring.reader(2)
    assert _drain(reader) == list(range(5, 21))
    assert (reader.frames_lost, reader.overruns) == (3, 1)


@pytest.mark.parametrize("start", [0, -1, 22])
def test_a_start_that_cannot_be_is_refused(writer: Writer, instance: str, start: int) -> None:
    for _ in range(20):
        publish(writer)
    with pytest.raises(ValueError, match=f"start {start}: 1 to 21"):
        Ring.attach(instance, "blocks").reader(start)


@pytest.mark.usefixtures("writer")
def test_choices_that_do_not_exist_are_refused(instance: str) -> None:
    ring = Ring.attach(instance, "blocks")
    with pytest.raises(ValueError, match="start 'first'"):
        ring.reader("first")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="resume 'last'"):
        ring.reader(resume="last")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="wait 'sleep'"):
        ring.reader(wait="sleep")  # type: ignore[arg-type]


@pytest.mark.parametrize(("resume", "first"), [("oldest", 85), ("newest", 100)])
def test_a_reader_lapped_in_the_slots_resumes_where_it_chose(
    writer: Writer, instance: str, resume: str, first: int
) -> None:
    reader = Ring.attach(instance, "blocks").reader(resume=resume)  # type: ignore[arg-type]
    for _ in range(100):
        publish(writer)
    assert _drain(reader) == list(range(first, 101))
    assert (reader.slot_laps, reader.arena_laps, reader.overruns) == (1, 0, 1)
    assert reader.frames_lost == first - 1


@pytest.mark.parametrize("resume", ["oldest", "newest"])
def test_a_reader_lapped_in_the_arena_counts_it_apart(
    make_writer: Make, instance: str, resume: str
) -> None:
    writer = make_writer(slot_count=256)
    reader = Ring.attach(instance, "blocks").reader(resume=resume)  # type: ignore[arg-type]
    for _ in range(100):
        publish(writer, bytes(10_000))
    received = _drain(reader)
    assert received[-1] == 100
    assert received == list(range(received[0], 101))
    assert (reader.slot_laps, reader.arena_laps) == (0, 1)
    assert reader.frames_lost + len(received) == 100
    assert len(received) == (1 if resume == "newest" else len(received)) >= 1


def test_what_is_whole_after_an_overrun_need_not_be_one_run(
    make_writer: Make, instance: str
) -> None:
    """A reservation committed late has an early place: its frame goes while older numbers live."""
    writer = make_writer(slot_count=256)
    reader = Ring.attach(instance, "blocks").reader("newest")
    reservation = writer.reserve(64)
    for _ in range(3):
        publish(writer, bytes(15_000))
    reservation.commit(16, hash=bytes(32), level=0)
    publish(writer, bytes(9_000))
    publish(writer, bytes(13_000))
    assert _drain(reader) == [2, 3, 5, 6]
    assert (reader.frames_lost, reader.overruns, reader.arena_laps) == (2, 2, 2)


def test_lost_and_received_are_together_what_was_published(
    make_writer: Make, instance: str
) -> None:
    writer = make_writer(slot_count=32)
    readers = [
        Ring.attach(instance, "blocks").reader(resume=resume)
        for resume in ("oldest", "newest")
    ]  # fmt: skip
    received = [0, 0]
    for turn in range(3000):
        publish(writer, bytes(turn * 37 % 5000))
        for index, reader in enumerate(readers):
            if turn % (40 + 50 * index) == 0:
                received[index] += len(_drain(reader))
    for index, reader in enumerate(readers):
        received[index] += len(_drain(reader))
        assert reader.frames_lost + received[index] == 3000
        assert reader.overruns > 0


@pytest.mark.parametrize("mode", MODES)
def test_waiting_without_a_frame_ends_at_its_timeout(
    writer: Writer, instance: str, mode: str
) -> None:
    reader = Ring.attach(instance, "blocks").reader(wait=mode)  # type: ignore[arg-type]
    started = time.monotonic()
    assert reader.wait(0.03) is None
    assert time.monotonic() - started >= 0.03
    assert reader.wait(0) is None
    assert reader.wait(-1) is None
    publish(writer)
    assert reader.wait(0) is not None


@pytest.mark.parametrize("mode", MODES)
def test_waiting_returns_with_the_frame_and_releases_the_gil(
    writer: Writer, instance: str, mode: str
) -> None:
    reader = Ring.attach(instance, "blocks").reader(wait=mode)  # type: ignore[arg-type]
    got: list[int] = []

    def wait_for_all() -> None:
        while len(got) < 20:
            frame = reader.wait(30)
            assert frame is not None
            got.append(frame.sequence)

    thread = threading.Thread(target=wait_for_all)
    thread.start()
    for count in range(20):
        publish(writer)
        while len(got) <= count:
            time.sleep(0)
    thread.join()
    assert got == list(range(1, 21))


@pytest.mark.parametrize("mode", MODES)
def test_waiting_for_ever_runs_signal_handlers(writer: Writer, instance: str, mode: str) -> None:
    reader = Ring.attach(instance, "blocks").reader(wait=mode)  # type: ignore[arg-type]
    before = signal.signal(signal.SIGALRM, lambda *_: publish(writer, b"from the handler"))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        frame = reader.wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert frame is not None
    assert frame.copy() == b"from the handler"


@pytest.mark.parametrize("mode", MODES)
def test_a_waiting_reader_is_told_of_the_end(writer: Writer, instance: str, mode: str) -> None:
    reader = Ring.attach(instance, "blocks").reader(wait=mode)  # type: ignore[arg-type]
    timer = threading.Timer(0.02, writer.close)
    timer.start()
    with pytest.raises(Closed, match="ended"):
        reader.wait(30)
    timer.join()


def test_iteration_goes_on_until_the_ring_ends(writer: Writer, instance: str) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    for _ in range(5):
        publish(writer)
    writer.close()
    assert [frame.sequence for frame in reader] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("mode", MODES)
def test_a_ring_whose_name_was_removed_and_whose_writer_is_gone_has_ended(
    make_writer: Make, instance: str, mode: WaitMode
) -> None:
    writer = make_writer()
    reader = Ring.attach(instance, "blocks").reader(wait=mode)
    segment_path(instance, "blocks").unlink()
    publish(writer)
    assert reader.wait(5) is not None
    writer.close(unlink=False)
    with pytest.raises(Closed, match="ended"):
        reader.wait(30)
    with pytest.raises(Closed, match="ended"):
        reader.poll()


def test_a_ring_that_lost_name_and_writer_says_so_without_a_wait(
    make_writer: Make, instance: str
) -> None:
    writer = make_writer()
    ring = Ring.attach(instance, "blocks")
    segment_path(instance, "blocks").unlink()
    assert not ring.ended
    writer.close(unlink=False)
    assert ring.ended


def test_a_closed_reader_says_so(writer: Writer, instance: str) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    reader.close()
    reader.close()
    publish(writer)
    for call in (reader.poll, reader.wait, lambda: reader.wait(1), reader.fileno):
        with pytest.raises(Closed, match="this reader was closed"):
            call()


def test_a_closed_ring_gives_no_readers_but_frames_stay(writer: Writer, instance: str) -> None:
    ring = Ring.attach(instance, "blocks")
    reader = ring.reader()
    publish(writer, b"still here")
    frame = reader.poll()
    assert frame is not None
    ring.close()
    reader.close()
    with pytest.raises(Closed, match="this handle was closed"):
        ring.reader()
    payload = frame.payload
    del ring, reader
    gc.collect()
    assert payload == b"still here"
    assert frame.valid()


def test_the_mapping_goes_with_its_last_user(writer: Writer, instance: str) -> None:
    def mapped() -> int:
        with open("/proc/self/maps") as maps:
            return sum(f"sprint.{instance}.blocks" in line for line in maps)

    own = mapped()
    ring = Ring.attach(instance, "blocks")
    reader = ring.reader()
    publish(writer)
    frame = reader.poll()
    assert frame is not None
    payload = frame.payload
    assert mapped() > own
    del ring, reader, frame
    gc.collect()
    assert payload == b"payload"
    del payload
    gc.collect()
    assert mapped() == own


def test_readers_leave_no_descriptor_behind(writer: Writer, instance: str) -> None:
    before = _count("fd")
    for _ in range(5):
        with Ring.attach(instance, "blocks") as ring, ring.reader() as reader:
            reader.wait(0.001)
            reader.fileno()
        del ring, reader
    gc.collect()
    assert _count("fd") == before
    publish(writer)


def test_a_reader_maps_read_only(writer: Writer, instance: str) -> None:
    ring = Ring.attach(instance, "blocks")
    publish(writer)
    assert ring.arena.readonly
    frame = ring.reader("oldest").poll()
    assert frame is not None
    with pytest.raises(TypeError):
        frame.payload[0] = 1
    with open("/proc/self/maps") as maps:
        modes = [line.split()[1] for line in maps if f"sprint.{instance}.blocks" in line]
    assert sorted(modes) == ["r--s", "rw-s"]
    assert ffi.cast("uintptr_t", ring.mapped.arena)


# asyncio


async def test_awaiting_gives_frames_in_order_and_ends_with_the_ring(
    make_writer: Make, instance: str
) -> None:
    writer = make_writer(slot_count=64)
    reader = Ring.attach(instance, "blocks").reader()

    async def publish_all() -> None:
        for turn in range(50):
            publish(writer)
            if turn % 5 == 0:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        writer.close()

    task = asyncio.create_task(publish_all())
    received = [frame.sequence async for frame in reader]
    await task
    assert received == list(range(1, 51))


async def test_next_raises_closed_at_the_end(writer: Writer, instance: str) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    waiting = asyncio.create_task(reader.next())
    await asyncio.sleep(0)
    writer.close()
    with pytest.raises(Closed):
        await asyncio.wait_for(waiting, 10)


async def test_an_awaiting_reader_is_told_that_name_and_writer_are_gone(
    make_writer: Make, instance: str
) -> None:
    writer = make_writer()
    reader = Ring.attach(instance, "blocks").reader()
    waiting = asyncio.create_task(reader.next())
    while reader._sleeper is None:
        await asyncio.sleep(0)
    writer.close(unlink=False)
    segment_path(instance, "blocks").unlink()
    with pytest.raises(Closed, match="ended"):
        await asyncio.wait_for(waiting, 10)


async def test_a_cancelled_await_leaves_the_reader_usable(writer: Writer, instance: str) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.next(), 0.01)
    publish(writer)
    assert (await asyncio.wait_for(reader.next(), 10)).sequence == 1


@pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
async def test_closing_a_reader_ends_what_awaits_it(writer: Writer, instance: str) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    waiting = asyncio.create_task(reader.next())
    while reader._sleeper is None:
        await asyncio.sleep(0)
    reader.close()
    with pytest.raises(Closed, match="this reader was closed"):
        await asyncio.wait_for(waiting, 10)
    publish(writer)


async def test_two_tasks_cannot_await_one_reader(writer: Writer, instance: str) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    first = asyncio.create_task(reader.next())
    while reader._sleeper is None:
        await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another task"):
        await reader.next()
    publish(writer)
    assert (await asyncio.wait_for(first, 10)).sequence == 1


@pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
async def test_many_readers_of_both_rings_are_served_by_one_thread(
    make_writer: Make, instance: str
) -> None:
    writers = [make_writer("blocks", slot_count=64), make_writer("tx", slot_count=64)]
    rings = [Ring.attach(instance, name) for name in ("blocks", "tx")]
    before = _count("task")
    readers = [rings[index % 2].reader() for index in range(10)]

    async def read(reader: Reader) -> list[int]:
        return [(await reader.next()).sequence for _ in range(30)]

    tasks = [asyncio.create_task(read(reader)) for reader in readers]
    for turn in range(60):
        publish(writers[turn % 2])
        if turn % 7 == 0:
            await asyncio.sleep(0.001)
    assert await asyncio.wait_for(asyncio.gather(*tasks), 20) == [list(range(1, 31))] * 10
    assert _count("task") <= before + 1
    for reader in readers:
        reader.close()


def test_the_eventfd_wakes_a_select(writer: Writer, instance: str) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    fd = reader.fileno()
    assert fd == reader.fileno()
    os.eventfd_read(fd)  # told once at the start
    assert select.select([fd], [], [], 0)[0] == []
    for count in range(50):
        publish(writer)
        assert select.select([fd], [], [], 10)[0] == [fd]
        os.eventfd_read(fd)
        frame = reader.poll()
        assert frame is not None
        assert frame.sequence == count + 1


def test_after_fork_a_child_gets_a_notifier_of_its_own(writer: Writer, instance: str) -> None:
    parent = Ring.attach(instance, "blocks").reader()
    parent.fileno()
    told = os.pipe()
    pid = os.fork()
    if pid == 0:
        reader = Ring.attach(instance, "blocks").reader()
        fd = reader.fileno()
        os.eventfd_read(fd)
        os.write(told[1], b"r")
        ready = select.select([fd], [], [], 20)[0] == [fd] and reader.poll() is not None
        os._exit(0 if ready else 1)
    os.read(told[0], 1)
    publish(writer)
    assert os.waitpid(pid, 0)[1] == 0
    assert parent.poll() is not None
    parent.close()
    for end in told:
        os.close(end)


def test_an_inherited_reader_takes_no_notification_from_its_parent(
    writer: Writer, instance: str
) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    parents = reader.fileno()
    os.eventfd_read(parents)
    told = os.pipe()
    pid = os.fork()
    if pid == 0:
        fd = reader.fileno()
        os.eventfd_read(fd)
        os.write(told[1], b"r")
        select.select([fd], [], [], 20)
        os.eventfd_read(fd)
        frame = reader.poll()
        os._exit(0 if frame is not None and frame.sequence == 1 else 1)
    os.read(told[0], 1)
    publish(writer)
    assert os.waitpid(pid, 0)[1] == 0
    assert select.select([parents], [], [], 10)[0] == [parents]
    for end in told:
        os.close(end)


def test_what_a_reader_counted_can_be_read_after_its_close(writer: Writer, instance: str) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    for _ in range(20):
        publish(writer)
    assert reader.poll() is not None
    counts = (reader.sequence, reader.frames_lost, reader.overruns)
    reader.close()
    assert (reader.sequence, reader.frames_lost, reader.overruns) == counts
    assert counts[1] == 4
