"""Create, publish, lock, give up: the writer's side."""

from __future__ import annotations

import fcntl
import itertools
import multiprocessing
import os
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from ring_tools import objects, publish

from bitcoin_sprint.errors import Closed, HostError, RingError, WriterActive
from bitcoin_sprint.frames import Chain, Kind, Level
from bitcoin_sprint.native import crc32c
from bitcoin_sprint.ring import Ring, Writer, layout, segment

Make = Callable[..., Writer]


def test_a_fresh_ring_is_empty_live_and_of_epoch_one(writer: Writer, instance: str) -> None:
    ring = Ring.attach(instance, "blocks")
    assert (ring.head, ring.oldest, ring.epoch) == (0, 1, 1)
    assert ring.session == writer.session != 0
    assert ring.writer_alive()
    assert not ring.ended
    assert ring.writer_pid == os.getpid()
    assert ring.network == "main"


def test_what_is_published_comes_out_field_by_field(writer: Writer, instance: str) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    sequence = writer.publish(
        Kind.HEADER, b"x" * 80, hash=bytes(range(32)), level=Level.POW, height=800_000, flags=1,
        chain=Chain.LITECOIN, source=63, origin_ns=1, first_byte_ns=2, last_byte_ns=3,
    )  # fmt: skip
    frame = reader.poll()
    assert frame is not None
    assert sequence == frame.sequence == 1
    assert (frame.kind, frame.chain, frame.level, frame.flags) == (1, 2, 1, 1)
    assert (frame.height, frame.source, frame.hash) == (800_000, 63, bytes(range(32)))
    assert (frame.origin_ns, frame.first_byte_ns, frame.last_byte_ns) == (1, 2, 3)
    assert (frame.length, frame.copy()) == (80, b"x" * 80)
    assert frame.crc32c == crc32c(b"x" * 80)
    assert frame.session == writer.session
    assert frame.publish_ns > 1_600_000_000 * 10**9


def test_an_unknown_height_is_minus_one(writer: Writer, instance: str) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    publish(writer)
    frame = reader.poll()
    assert frame is not None
    assert frame.height == -1


@pytest.mark.parametrize("pieces", [1, 2, 9, 200])
def test_pieces_are_gathered_in_order(writer: Writer, instance: str, pieces: int) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    parts = [bytes([n % 256]) * n for n in range(pieces)]
    mixed = [bytearray(p) if n % 3 == 0 else memoryview(p) for n, p in enumerate(parts)]
    publish(writer, mixed)
    frame = reader.poll()
    assert frame is not None
    assert frame.copy() == b"".join(parts)
    assert frame.crc32c == crc32c(b"".join(parts))


@pytest.mark.parametrize("payload", [b"", bytearray(b"ab"), memoryview(b"abcdef")[1:4], []])
def test_any_bytes_will_do_as_a_payload(writer: Writer, instance: str, payload: object) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    publish(writer, payload)
    frame = reader.poll()
    assert frame is not None
    assert frame.copy() == bytes(payload)  # type: ignore[call-overload]


def test_a_payload_of_more_than_half_the_arena_is_refused_and_takes_no_number(
    writer: Writer,
) -> None:
    assert publish(writer, bytes(writer.arena_bytes // 2)) == 1
    with pytest.raises(RingError, match="half the arena"):
        publish(writer, bytes(writer.arena_bytes // 2 + 1))
    with pytest.raises(RingError, match="half the arena"):
        publish(writer, [bytes(writer.arena_bytes // 2), b"x"])
    assert publish(writer) == 2


def test_a_hash_of_another_length_is_refused(writer: Writer) -> None:
    with pytest.raises(ValueError, match="a hash has 32 bytes, not 31"):
        publish(writer, hash=bytes(31))
    with pytest.raises(ValueError, match="a hash has 32 bytes, not 33"):
        publish(writer, [b"a"], hash=bytes(33))


def test_payloads_never_wrap(writer: Writer, instance: str) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    for length in [30_000, 30_000, 5_000, 20_000, 1, 32_768, 17_000] * 5:
        payload = os.urandom(length)
        publish(writer, payload)
        frame = reader.poll()
        assert frame is not None
        assert frame.position % writer.arena_bytes + length <= writer.arena_bytes
        assert frame.copy() == payload


def test_stamps_increase_strictly_over_both_rings(make_writer: Make, instance: str) -> None:
    writers = [make_writer("blocks"), make_writer("tx")]
    readers = [Ring.attach(instance, name).reader() for name in ("blocks", "tx")]
    stamps = []
    for turn in range(2000):
        publish(writers[turn % 2])
        frame = readers[turn % 2].poll()
        assert frame is not None
        stamps.append(frame.stamp_ns)
    assert all(a < b for a, b in itertools.pairwise(stamps))


def test_a_second_writer_is_refused_while_the_first_lives(
    writer: Writer, make_writer: Make
) -> None:
    with pytest.raises(WriterActive, match="another living process writes this ring"):
        make_writer()
    publish(writer)
    writer.close()
    assert make_writer().epoch == 1


def test_a_lock_that_a_reader_set_is_told_apart_from_a_writers(
    writer: Writer, make_writer: Make, instance: str
) -> None:
    writer.close(unlink=False)
    path = layout.segment_path(instance, "blocks")
    with open(path, "rb") as file:
        assert segment.set_lock(file.fileno(), fcntl.F_RDLCK)
        assert not Ring.attach(instance, "blocks").writer_alive()
        with pytest.raises(HostError, match="a reader holds a lock on it"):
            make_writer()
    assert make_writer().epoch == 2


def test_two_writers_started_at_once_end_with_one(instance: str) -> None:
    outcomes: list[Writer | type[BaseException]] = []
    barrier = threading.Barrier(4)

    def start() -> None:
        barrier.wait()
        try:
            outcomes.append(Writer.create(instance, "tx", slot_count=4, arena_bytes=4096))
        except WriterActive as refused:
            outcomes.append(type(refused))

    for _ in range(25):
        outcomes.clear()
        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [outcome for outcome in outcomes if isinstance(outcome, Writer)]
        assert len(winners) == 1
        assert outcomes.count(WriterActive) == 3
        winners[0].close(unlink=bool(len(outcomes) % 2))


def test_closing_tells_the_readers_and_leaves_nothing(make_writer: Make, instance: str) -> None:
    both = [make_writer("blocks"), make_writer("tx")]
    reader = Ring.attach(instance, "blocks").reader()
    publish(both[0])
    both[0].close()
    assert [path.name.rsplit(".", 1)[1] for path in objects(instance)] == ["tx", "wake"]
    both[1].close()
    assert objects(instance) == []
    assert reader.poll() is not None
    with pytest.raises(Closed, match="ended"):
        reader.poll()
    assert reader.ring.ended


def test_closing_without_unlinking_leaves_the_ring_for_a_successor(
    make_writer: Make, instance: str
) -> None:
    first = make_writer()
    publish(first)
    reader = Ring.attach(instance, "blocks").reader("oldest")
    first.close(unlink=False)
    assert not reader.ring.writer_alive()
    second = make_writer()
    assert (second.session, second.epoch, second.head) == (reader.ring.session, 2, 1)
    publish(second, b"second")
    assert [f.sequence for f in (reader.poll(), reader.poll()) if f] == [1, 2]


def test_a_closed_writer_says_so(writer: Writer) -> None:
    reservation = writer.reserve(10)
    writer.close()
    writer.close()
    for call in (
        lambda: publish(writer),
        lambda: publish(writer, [b"a"]),
        lambda: writer.reserve(1),
        lambda: writer.head,
        lambda: writer.epoch,
        writer.heartbeat,
        lambda: writer.set_source(0, "x"),
        lambda: reservation.buffer,
        lambda: reservation.advance(1),
    ):
        with pytest.raises(Closed, match="writer was closed"):
            call()
    reservation.abandon()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_readers_may_write_the_wake_object_and_nothing_else(
    make_writer: Make, instance: str, mode: int
) -> None:
    make_writer(mode=mode)
    modes = {p.suffix: stat.S_IMODE(p.stat().st_mode) for p in objects(instance)}
    assert modes[".blocks"] == mode
    assert modes[".wake"] == mode | (mode & 0o044) >> 1


def test_the_mode_does_not_depend_on_the_umask(make_writer: Make, instance: str) -> None:
    before = os.umask(0o777)
    try:
        make_writer(mode=0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE(layout.segment_path(instance, "blocks").stat().st_mode) == 0o644


def test_a_group_that_does_not_exist_is_a_clear_error_and_leaves_nothing(
    make_writer: Make, instance: str
) -> None:
    with pytest.raises(HostError, match="no group 'no-such-group'"):
        make_writer(group="no-such-group")
    assert objects(instance) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [({"slot_count": 0}, "slot_count 0"), ({"slot_count": 1 << 25}, "slot_count"),
     ({"arena_bytes": 0}, "arena_bytes 0"), ({"arena_bytes": 1 << 33}, "arena_bytes"),
     ({"network": ""}, "network"), ({"network": "x" * 40}, "network")],
)  # fmt: skip
def test_sizes_and_names_out_of_bounds_are_refused_and_leave_nothing(
    make_writer: Make, instance: str, options: dict[str, object], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        make_writer(**options)
    assert objects(instance) == []


def test_sources_are_named_for_readers_and_long_names_are_cut(
    writer: Writer, instance: str
) -> None:
    ring = Ring.attach(instance, "blocks")
    assert ring.source_name(5) is None
    writer.set_source(5, "node é")
    assert ring.source_name(5) == "node é"
    writer.set_source(5, "é" * 40)
    assert ring.source_name(5) == "é" * 29
    for index in (-1, 64):
        with pytest.raises(ValueError, match="0 to 63"):
            writer.set_source(index, "x")
    assert ring.source_name(64) is None


def test_the_heartbeat_is_for_readers_to_see(writer: Writer, instance: str) -> None:
    ring = Ring.attach(instance, "blocks")
    before = ring.heartbeat_ns
    writer.heartbeat()
    assert ring.heartbeat_ns > before > 0


def test_a_forked_child_neither_holds_the_lock_nor_writes(make_writer: Make, instance: str) -> None:
    writer = make_writer()
    ready, done = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        state = b"c" if writer.closed else b"o"
        os.write(ready[1], state)
        os.read(done[0], 1)
        os._exit(0)
    try:
        assert os.read(ready[0], 1) == b"c"
        assert publish(writer) == 1
        writer.close(unlink=False)
        assert not Ring.attach(instance, "blocks").writer_alive()
        assert make_writer().epoch == 2
    finally:
        os.write(done[1], b"x")
        os.waitpid(pid, 0)
        for fd in (*ready, *done):
            os.close(fd)


def test_shared_memory_that_is_too_small_is_a_host_error_and_leaves_nothing(
    make_writer: Make, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_fd: int, _offset: int, _length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(HostError, match="of shared memory wanted"):
        make_writer()
    assert objects(instance) == []


def test_short_shared_memory_sizes_the_ring_down_with_a_warning(
    make_writer: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = os.posix_fallocate

    def limited(fd: int, offset: int, length: int) -> None:
        if length > 40 << 20:
            raise OSError(28, "No space left on device")
        real(fd, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", limited)
    writer = make_writer("blocks", slot_count=4096, arena_bytes=128 << 20)
    assert (writer.slot_count, writer.arena_bytes) == (1024, 32 << 20)
    assert "sized down" in caplog.text
    writer.close(unlink=False)
    again = make_writer("blocks", slot_count=4096, arena_bytes=128 << 20)
    assert again.epoch == 2


def test_a_real_file_system_that_is_too_small_is_a_host_error(
    tmp_path: Path, instance: str
) -> None:
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(tmp_path)], capture_output=True
    ).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        with pytest.raises(HostError, match=r"8\.0 MiB free"):
            Writer.create(
                instance, "blocks", slot_count=64, arena_bytes=16 << 20, directory=tmp_path
            )
        assert list(tmp_path.iterdir()) == []
        with Writer.create(
            instance, "blocks", slot_count=64, arena_bytes=4 << 20, directory=tmp_path
        ) as writer:
            reader = Ring.attach(instance, "blocks", directory=tmp_path).reader()
            publish(writer, b"elsewhere")
            frame = reader.wait(5)
            assert frame is not None
            assert frame.copy() == b"elsewhere"
            del frame, reader
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_ring_has_no_size_before_it_has_the_memory(
    make_writer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that maps a file without its memory ends by SIGBUS where memory is short."""
    real, sizes, modes = os.posix_fallocate, [], []

    def watched(fd: int, offset: int, length: int) -> None:
        sizes.append(os.fstat(fd).st_size)
        modes.append(stat.S_IMODE(os.fstat(fd).st_mode))
        real(fd, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", watched)
    make_writer(mode=0o644)
    assert sizes == [0, 0]  # ring and wake object
    assert modes == [0o644, 0o666]  # so who may read them finds them unfinished, not forbidden


def test_a_writer_made_in_a_spawned_process_is_one_like_any_other(instance: str) -> None:
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_publish_and_die, args=(instance,))
    child.start()
    child.join()
    ring = Ring.attach(instance, "tx")
    assert not ring.writer_alive()
    frame = ring.reader("oldest").poll()
    assert frame is not None
    assert frame.copy() == b"payload"


def _publish_and_die(instance: str) -> None:
    publish(Writer.create(instance, "tx", slot_count=4, arena_bytes=4096))
    os._exit(0)
