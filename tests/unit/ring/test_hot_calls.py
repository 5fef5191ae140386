"""The calls of a trading loop: arguments, failures, lifetimes and signals of the C types."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest

from bitcoin_sprint import _hot
from bitcoin_sprint.errors import Closed, RingError
from bitcoin_sprint.frames import Chain, Flag, Kind, Level
from bitcoin_sprint.ring import Frame, Reader, Ring, Writer
from bitcoin_sprint.ring.layout import DESCRIPTOR

_HASH = bytes(range(32))
_numbers = count()


@pytest.fixture
def writer() -> Iterator[Writer]:
    name = f"test-hot-{os.getpid()}-{next(_numbers)}"
    with Writer.create(name, "blocks", slot_count=64, arena_bytes=1 << 20) as opened:
        yield opened


@pytest.fixture
def reader(writer: Writer) -> Iterator[Reader]:
    with Ring.attach(writer._instance, "blocks") as ring, ring.reader("oldest") as opened:
        yield opened


def _next(reader: Reader) -> Frame:
    frame = reader.poll()
    assert frame is not None
    return frame


def test_every_field_comes_out_as_it_was_given(writer: Writer, reader: Reader) -> None:
    sequence = writer.publish(
        Kind.BLOCK, b"payload", hash=_HASH, level=Level.MERKLE, height=2**31 - 1,
        flags=Flag.LATE, chain=Chain.LITECOIN, source=65535, origin_ns=2**64 - 1,
        first_byte_ns=2**63, last_byte_ns=7,
    )  # fmt: skip
    frame = _next(reader)
    assert frame.sequence == sequence == 1
    assert (frame.kind, frame.level, frame.chain) == (Kind.BLOCK, Level.MERKLE, Chain.LITECOIN)
    assert (frame.height, frame.flags, frame.source) == (2**31 - 1, Flag.LATE, 65535)
    assert (frame.origin_ns, frame.first_byte_ns, frame.last_byte_ns) == (2**64 - 1, 2**63, 7)
    assert frame.hash == _HASH
    assert frame.length == 7
    assert frame.publish_ns > 0
    assert frame.stamp_ns > 0
    assert len(frame.descriptor) == DESCRIPTOR.size


def test_a_frame_is_a_read_only_buffer_of_its_payload(writer: Writer, reader: Reader) -> None:
    writer.publish(Kind.BLOCK, struct.pack("<QQ", 5, 6), hash=_HASH, level=1)
    frame = _next(reader)
    assert struct.unpack_from("<QQ", frame) == (5, 6)
    assert np.frombuffer(frame, np.uint64).tolist() == [5, 6]
    assert frame.payload.readonly
    with pytest.raises(TypeError):
        frame.payload[0] = 1
    with pytest.raises(AttributeError):
        frame.height = 1


@pytest.mark.parametrize("pieces", [0, 1, 3, 16, 17, 100])
def test_pieces_are_gathered(writer: Writer, reader: Reader, pieces: int) -> None:
    kinds = (bytes, bytearray, memoryview)
    parts = [kinds[at % 3](b"%d," % at) for at in range(pieces)]
    writer.publish(Kind.BLOCK, parts, hash=_HASH, level=1)
    assert _next(reader).copy() == b"".join(parts)


def test_a_piece_that_is_no_buffer_publishes_nothing(writer: Writer, reader: Reader) -> None:
    fine = bytearray(b"fine")
    with pytest.raises(TypeError):
        writer.publish(Kind.BLOCK, [fine, "text"], hash=_HASH, level=1)  # type: ignore[list-item]
    fine.append(0)  # no export is left behind
    assert reader.poll() is None


@pytest.mark.parametrize(
    ("keywords", "error", "text"),
    [
        ({"hash": _HASH[1:], "level": 1}, ValueError, "32 bytes, not 31"),
        ({"hash": "x" * 32, "level": 1}, TypeError, "bytes"),
        ({"level": 1}, TypeError, "hash and level"),
        ({"hash": _HASH}, TypeError, "hash and level"),
        ({"hash": _HASH, "level": 256}, OverflowError, "level 256: 0 to 255"),
        ({"hash": _HASH, "level": -1}, OverflowError, "."),
        ({"hash": _HASH, "level": 1, "height": -2}, OverflowError, "height -2"),
        ({"hash": _HASH, "level": 1, "height": 2**31}, OverflowError, "height"),
        ({"hash": _HASH, "level": 1, "flags": 2**32}, OverflowError, "flags"),
        ({"hash": _HASH, "level": 1, "source": 65536}, OverflowError, "source 65536"),
        ({"hash": _HASH, "level": 1, "chain": "btc"}, TypeError, "."),
        ({"hash": _HASH, "level": 1, "heigth": 1}, TypeError, "heigth"),
    ],
)
def test_a_wrong_description_is_refused(
    writer: Writer, reader: Reader, keywords: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        writer.publish(Kind.BLOCK, b"", **keywords)
    reservation = writer.reserve(8)
    with pytest.raises(error, match=text):
        reservation.commit(Kind.BLOCK, **keywords)
    assert reservation.open
    reservation.abandon()
    assert reader.poll() is None


def test_keywords_need_not_be_interned(writer: Writer, reader: Reader) -> None:
    writer.publish(Kind.BLOCK, b"", **{"".join(["ha", "sh"]): _HASH, "".join(["lev", "el"]): 1})
    assert _next(reader).hash == _HASH


def test_too_long_a_payload_is_refused(writer: Writer) -> None:
    with pytest.raises(RingError, match="half the arena"):
        writer.publish(Kind.BLOCK, bytes(600_000), hash=_HASH, level=1)


def test_a_closed_writer_and_its_reservation_refuse(writer: Writer) -> None:
    reservation = writer.reserve(100)
    writer.close()
    with pytest.raises(Closed):
        writer.publish(Kind.BLOCK, b"", hash=_HASH, level=1)
    with pytest.raises(Closed):
        reservation.commit(Kind.BLOCK, hash=_HASH, level=1)


def test_a_writer_closed_by_its_own_arguments_refuses(writer: Writer) -> None:
    class Height:
        def __index__(self) -> int:
            writer.close()
            return 5

    reservation = writer.reserve(100)
    with pytest.raises(Closed):
        writer.publish(Kind.BLOCK, b"", hash=_HASH, level=1, height=Height())  # type: ignore[arg-type]
    with pytest.raises(Closed):
        reservation.commit(Kind.BLOCK, hash=_HASH, level=1, height=Height())  # type: ignore[arg-type]


def test_a_reservation_is_given_up_before_the_writer_it_keeps() -> None:
    ended = []

    class _Publisher(_hot.Publisher):
        def __del__(self) -> None:
            ended.append("writer")

    class _Keeper:
        def __del__(self) -> None:
            ended.append("reservation")

    publisher = _Publisher()
    committer = _hot.Committer()
    committer._aim(publisher, _Keeper(), 1)
    del publisher, committer
    assert ended == ["reservation", "writer"]


def test_a_forgotten_writer_lets_go_and_leaves_the_ring_for_a_successor(writer: Writer) -> None:
    sizes = {"slot_count": 16, "arena_bytes": 1 << 16}
    name = f"{writer._instance}-b"
    forgotten = Writer.create(name, "blocks", **sizes)
    reservation = forgotten.reserve(100)
    assert forgotten.publish(Kind.BLOCK, b"", hash=_HASH, level=1) == 1
    del forgotten, reservation
    with Writer.create(name, "blocks", **sizes) as successor:
        assert (successor.epoch, successor.head) == (2, 1)


def test_a_forked_child_cannot_write(writer: Writer, reader: Reader) -> None:
    reservation = writer.reserve(100)
    child = os.fork()
    if child == 0:
        refusals = 0
        for call in (
            lambda: writer.publish(Kind.BLOCK, b"", hash=_HASH, level=1),
            lambda: reservation.commit(Kind.BLOCK, hash=_HASH, level=1),
        ):
            try:
                call()
            except Closed:
                refusals += 1
        os._exit(refusals)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert reader.poll() is None
    writer.publish(Kind.BLOCK, b"parent", hash=_HASH, level=1)
    assert _next(reader).copy() == b"parent"


def test_a_frame_outlives_reader_ring_and_writer(writer: Writer) -> None:
    ring = Ring.attach(writer._instance, "blocks")
    reader = ring.reader("oldest")
    writer.publish(Kind.BLOCK, b"payload", hash=_HASH, level=1)
    frame = _next(reader)
    view = frame.payload
    reader.close()
    ring.close()
    writer.close()
    del reader, ring, frame
    gc.collect()
    assert bytes(view) == b"payload"


def test_frames_and_readers_are_freed(writer: Writer) -> None:
    ring = Ring.attach(writer._instance, "blocks")
    before = sys.getrefcount(ring)
    frames = []
    for _ in range(10):
        reader = ring.reader("oldest")
        writer.publish(Kind.BLOCK, b"x" * 100, hash=_HASH, level=1)
        frames.append(_next(reader))
        assert reader.wait(0) is not None or reader.sequence
    assert sys.getrefcount(ring) > before
    del frames, reader
    gc.collect()
    assert sys.getrefcount(ring) == before
    ring.close()


def test_a_frame_is_neither_made_nor_copied_nor_pickled(writer: Writer, reader: Reader) -> None:
    with pytest.raises(TypeError):
        Frame()
    writer.publish(Kind.BLOCK, b"", hash=_HASH, level=1)
    frame = _next(reader)
    for attempt in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="copy\\(\\)"):
            attempt(frame)


def test_a_wait_ends_with_its_timeout(reader: Reader) -> None:
    started = time.monotonic()
    assert reader.wait(0.12) is None
    assert time.monotonic() - started >= 0.12
    for none in (0, -1.0, float("nan")):
        assert reader.wait(timeout=none) is None


def test_a_wait_takes_a_number_or_none(reader: Reader) -> None:
    with pytest.raises(TypeError):
        reader.wait("long")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="timeout"):
        reader.wait(seconds=1)  # type: ignore[call-arg]


def test_a_signal_handler_runs_during_a_wait(reader: Reader) -> None:
    class Rang(Exception):
        pass

    def ring_the_bell(*_: object) -> None:
        raise Rang

    old = signal.signal(signal.SIGALRM, ring_the_bell)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(Rang):
            reader.wait(20)
    finally:
        signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize("mode", ["spin", "spin_then_yield", "block"])
def test_other_threads_run_during_a_wait(writer: Writer, mode: Any) -> None:
    ring = Ring.attach(writer._instance, "blocks")
    reader = ring.reader(wait=mode)
    frames: list[Frame | None] = []
    waiting = threading.Thread(target=lambda: frames.append(reader.wait(20)))
    waiting.start()
    writer.publish(Kind.BLOCK, b"at last", hash=_HASH, level=1)
    waiting.join(20)
    assert [frame and frame.copy() for frame in frames] == [b"at last"]
    reader.close()
    ring.close()


def test_a_closed_reader_refuses(reader: Reader) -> None:
    reader.close()
    with pytest.raises(Closed):
        reader.poll()
    with pytest.raises(Closed):
        reader.wait(1)


def test_a_reader_is_told_of_the_rings_end(writer: Writer, reader: Reader) -> None:
    writer.publish(Kind.BLOCK, b"last", hash=_HASH, level=1)
    writer.close()
    assert _next(reader).copy() == b"last"
    with pytest.raises(Closed):
        reader.wait(20)
