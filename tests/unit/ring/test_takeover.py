"""A dead writer's segment: what a successor makes of it, store by store, and what it refuses."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ring_tools import publish

from bitcoin_sprint.errors import Closed, NotRunningError
from bitcoin_sprint.native import ffi
from bitcoin_sprint.ring import Ring, Writer, layout

Make = Callable[..., Writer]
Edit = Callable[[mmap.mmap], None]

SLOTS = 16


@contextmanager
def _memory(path: Path) -> Iterator[mmap.mmap]:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        yield memory


def _u64(memory: mmap.mmap, offset: int, value: int) -> None:
    struct.pack_into("<Q", memory, offset, value)


def _header(field: str) -> int:
    return int(ffi.offsetof("sp_header", field))


def _slot(sequence: int, field: str = "seq") -> int:
    return (
        layout.SLOTS_OFFSET
        + sequence % SLOTS * layout.SLOT_BYTES
        + int(ffi.offsetof("sp_descriptor", field))
    )


def _left_behind(make_writer: Make, instance: str, frames: int, edit: Edit | None) -> Path:
    """A ring whose writer died after ``frames`` frames, then edited."""
    writer = make_writer()
    for number in range(1, frames + 1):
        publish(writer, b"frame %d" % number)
    writer.close(unlink=False)
    path = layout.segment_path(instance, "blocks")
    if edit is not None:
        with _memory(path) as memory:
            edit(memory)
    return path


def _intent_ahead(memory: mmap.mmap) -> None:
    at = _header("tail_intent")
    _u64(memory, at, struct.unpack_from("<Q", memory, at)[0] + 5000)


def _busy(memory: mmap.mmap) -> None:
    _intent_ahead(memory)
    _u64(memory, _slot(21), 20)


def _half_a_descriptor(memory: mmap.mmap) -> None:
    _busy(memory)
    memory[_slot(21, "position") : _slot(21, "position") + 60] = b"\xee" * 60


def _hint_behind(memory: mmap.mmap) -> None:
    _u64(memory, _header("head_hint"), 19)


@pytest.mark.parametrize("edit", [None, _intent_ahead, _busy, _half_a_descriptor, _hint_behind])
def test_wherever_the_writer_died_the_successor_goes_on_and_nothing_whole_is_lost(
    make_writer: Make, instance: str, edit: Edit | None
) -> None:
    _left_behind(make_writer, instance, 20, edit)
    ring = Ring.attach(instance, "blocks")
    waiting, from_oldest = ring.reader("newest"), ring.reader("oldest")
    assert waiting.sequence == 21
    writer = make_writer()
    assert (writer.epoch, ring.epoch, writer.head, writer.session) == (2, 2, 20, ring.session)
    assert publish(writer, b"from the successor") == 21
    frame = waiting.poll()
    assert frame is not None
    assert frame.copy() == b"from the successor"
    rest = []
    while (frame := from_oldest.poll()) is not None:
        rest.append(frame.copy())
    assert rest[-1] == b"from the successor"
    assert rest[:-1] == [b"frame %d" % n for n in range(22 - len(rest), 21)]
    assert len(rest) >= 15


def test_stamps_go_on_increasing_after_a_takeover(make_writer: Make, instance: str) -> None:
    def stamp_ahead(memory: mmap.mmap) -> None:
        at = _slot(3, "stamp_ns")
        _u64(memory, at, struct.unpack_from("<Q", memory, at)[0] + 10**9)

    _left_behind(make_writer, instance, 3, stamp_ahead)
    publish(make_writer())
    reader = Ring.attach(instance, "blocks").reader("oldest")
    stamps = []
    while (frame := reader.poll()) is not None:
        stamps.append(frame.stamp_ns)
    assert len(stamps) == 4
    assert stamps == sorted(set(stamps))


def test_an_empty_ring_can_be_taken_over(make_writer: Make, instance: str) -> None:
    _left_behind(make_writer, instance, 0, None)
    writer = make_writer()
    assert (writer.epoch, writer.head) == (2, 0)
    assert publish(writer) == 1


def test_takeovers_go_on_and_on(make_writer: Make, instance: str) -> None:
    reader = None
    for epoch in range(1, 30):
        writer = make_writer()
        reader = reader or Ring.attach(instance, "blocks").reader()
        assert writer.epoch == epoch
        for _ in range(epoch % 5):
            publish(writer, bytes(3000))
        expected = epoch % 5
        while reader.poll() is not None:
            expected -= 1
        assert expected == 0
        writer.close(unlink=False)
    assert reader is not None
    assert reader.frames_lost == 0


def test_room_that_the_dead_writer_had_announced_is_never_given_out_again(
    make_writer: Make, instance: str
) -> None:
    path = _left_behind(make_writer, instance, 2, _intent_ahead)
    with _memory(path) as memory:
        intent = struct.unpack_from("<Q", memory, _header("tail_intent"))[0]
    sequence = publish(make_writer())
    frame = Ring.attach(instance, "blocks").reader(sequence).poll()
    assert frame is not None
    assert frame.position >= intent


def _set(field: str, value: int) -> Edit:
    size = {4: "<I", 8: "<Q"}
    width = ffi.sizeof(dict(ffi.typeof("sp_header").fields)[field].type)

    def edit(memory: mmap.mmap) -> None:
        struct.pack_into(size[width], memory, _header(field), value)

    edit.__name__ = f"{field}={value}"
    return edit


def _noise(memory: mmap.mmap) -> None:
    memory[:] = os.urandom(len(memory))


def _wrong_slot(memory: mmap.mmap) -> None:
    _u64(memory, _slot(20), 23)


def _two_busy(memory: mmap.mmap) -> None:
    _u64(memory, _slot(21), 20)
    _u64(memory, _slot(22), 21)


def _two_rounds(memory: mmap.mmap) -> None:
    _u64(memory, _slot(10), 10 + 5 * SLOTS)


def _flipped_bit(memory: mmap.mmap) -> None:
    arena = layout.segment_bytes(SLOTS, 0)
    at = arena + struct.unpack_from("<Q", memory, _slot(20, "position"))[0]
    memory[at] ^= 1


def _out_of_the_arena(memory: mmap.mmap) -> None:
    struct.pack_into("<I", memory, _slot(20, "length"), 1 << 30)


def _hole(memory: mmap.mmap) -> None:
    _u64(memory, _slot(15), 0)


def _older_out_of_the_arena(memory: mmap.mmap) -> None:
    struct.pack_into("<I", memory, _slot(15, "length"), 1 << 30)


def _older_past_the_tail(memory: mmap.mmap) -> None:
    _u64(memory, _slot(15, "position"), 2**64 - 64)


def _past_the_tail(memory: mmap.mmap) -> None:
    _u64(memory, _slot(20, "position"), 1 << 40)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [(_set("magic", 0), "being created"), (_set("magic", 1), "magic is 0000000000000001"),
     (_set("layout_version", 2), "layout version is 2"), (_set("state", 2), "its state is 2"),
     (_set("state", 0), "its state is 0"), (_set("slot_count", 17), "slot count is 17"),
     (_set("arena_bytes", 4097), "arena size is 4097"), (_set("slots_offset", 0), "slots at 0"),
     (_set("segment_bytes", 1 << 40), "segment of 1099511627776 bytes"),
     (_set("session", 0), "session is 0"), (_set("wake_offset", 1 << 20), "wake offset"),
     (_set("head_hint", 5), "head hint is 5, the newest frame 20"),
     (_set("tail_intent", 0), "tail at 0"), (_noise, "magic is"),
     (_wrong_slot, "slot 4 holds frame 23"), (_two_busy, "slot 6 holds frame 21"),
     (_two_rounds, "at once"), (_flipped_bit, "frame 20: CRC32C is"),
     (_set("tail_intent", 2**64 - 64), "tail at 18446744073709551552"),
     (_hole, "slot 15 holds frame 0 instead of 15"),
     (_older_out_of_the_arena, "frame 15: 1073741824 bytes"),
     (_older_past_the_tail, "frame 15: 8 bytes at position 18446744073709551552"),
     (_out_of_the_arena, "frame 20: 1073741824 bytes"), (_past_the_tail, "frame 20")],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_a_segment_that_does_not_fit_is_replaced_by_a_fresh_one(
    make_writer: Make, instance: str, caplog: pytest.LogCaptureFixture, edit: Edit, reason: str
) -> None:
    path = _left_behind(make_writer, instance, 20, edit)
    inode = path.stat().st_ino
    writer = make_writer()
    assert (writer.epoch, writer.head) == (1, 0)
    assert path.stat().st_ino != inode
    assert reason in caplog.text
    assert publish(writer) == 1


@pytest.mark.parametrize("size", [1, 100, 4096, 8191, 8192, 9000, 70_000])
def test_a_truncated_segment_is_replaced(make_writer: Make, instance: str, size: int) -> None:
    path = _left_behind(make_writer, instance, 20, None)
    os.truncate(path, size)
    assert make_writer().epoch == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("size", [None, 0])
def test_another_users_segment_is_replaced_and_never_written_to(
    make_writer: Make, instance: str, caplog: pytest.LogCaptureFixture, size: int | None
) -> None:
    path = _left_behind(make_writer, instance, 20, None)
    os.truncate(path, path.stat().st_size if size is None else size)
    os.chown(path, 65534, -1)
    before = path.read_bytes()
    with open(path, "rb") as theirs:
        assert make_writer().epoch == 1
        assert theirs.read() == before
    assert path.stat().st_uid == 0
    assert "it belongs to" in caplog.text


def test_a_segment_without_all_its_memory_is_replaced(
    make_writer: Make, instance: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = _left_behind(make_writer, instance, 20, None)
    size = path.stat().st_size
    os.truncate(path, size - 4096)
    os.truncate(path, size)
    with pytest.raises(NotRunningError, match="its memory is not all there"):
        Ring.attach(instance, "blocks")
    assert make_writer().epoch == 1
    assert "not all of them in memory" in caplog.text


@pytest.mark.parametrize(
    "options", [{"slot_count": 64}, {"arena_bytes": 1 << 17}, {"network": "regtest"}]
)
def test_other_sizes_or_another_network_make_a_new_session_and_tell_the_readers(
    make_writer: Make, instance: str, options: dict[str, object]
) -> None:
    _left_behind(make_writer, instance, 3, None)
    old = Ring.attach(instance, "blocks").reader("oldest")
    writer = make_writer(**options)
    assert writer.session != old.ring.session
    assert [frame.sequence for frame in old] == [1, 2, 3]
    with pytest.raises(Closed):
        old.poll()
    assert Ring.attach(instance, "blocks").session == writer.session
