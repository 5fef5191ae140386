"""Reserve, receive, commit, abandon, and being lapped meanwhile."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
from ring_tools import publish

from bitcoin_sprint.errors import Closed, RingError
from bitcoin_sprint.native import crc32c
from bitcoin_sprint.ring import Reservation, Ring, Writer

QUARTER = 1 << 14  # of the small ring's arena


def _receive(reservation: Reservation, data: bytes) -> None:
    reservation.buffer[: len(data)] = data
    reservation.advance(len(data))


def _commit(reservation: Reservation) -> int:
    return reservation.commit(16, hash=bytes(32), level=0)


def test_what_was_received_is_published_without_a_copy(writer: Writer, instance: str) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    reservation = writer.reserve(1000)
    _receive(reservation, b"first ")
    _receive(reservation, b"second")
    assert bytes(reservation.received) == b"first second"
    assert (reservation.length, reservation.capacity, reservation.revoked) == (12, 1000, False)
    assert reader.poll() is None
    assert _commit(reservation) == 1
    frame = reader.poll()
    assert frame is not None
    assert frame.copy() == b"first second"
    assert frame.crc32c == crc32c(b"first second")


def test_numbers_are_given_in_the_order_of_commits(writer: Writer, instance: str) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    early, late = writer.reserve(100), writer.reserve(100)
    _receive(early, b"early")
    _receive(late, b"late")
    assert publish(writer, b"between") == 1
    assert (_commit(late), _commit(early)) == (2, 3)
    frames = [reader.poll() for _ in range(3)]
    assert [f and f.copy() for f in frames] == [b"between", b"late", b"early"]
    assert frames[1] is not None
    assert frames[2] is not None
    assert frames[1].position > frames[2].position


def test_a_lapped_reservation_goes_on_in_private_memory(writer: Writer, instance: str) -> None:
    reader = Ring.attach(instance, "blocks").reader(resume="newest")
    reservation = writer.reserve(8000)
    _receive(reservation, b"a" * 4000)
    while not reservation.revoked:
        publish(writer, bytes(30_000))
    assert writer.revocations == 1
    assert bytes(reservation.received) == b"a" * 4000
    _receive(reservation, b"b" * 4000)
    publish(writer, bytes(30_000))
    sequence = _commit(reservation)
    frames = []
    while (frame := reader.poll()) is not None:
        frames.append(frame)
    assert frames[-1].sequence == sequence
    assert frames[-1].copy() == b"a" * 4000 + b"b" * 4000
    assert frames[-1].crc32c == crc32c(b"a" * 4000 + b"b" * 4000)


def test_a_reservation_that_is_not_revoked_is_whole_when_committed(
    writer: Writer, instance: str
) -> None:
    """Right up to the revocation a commit is delivered: nothing is lost between the two."""
    for published in range(40):
        ring = Ring.attach(instance, "blocks")
        reader = ring.reader()
        reservation = writer.reserve(900)
        _receive(reservation, b"z" * 900)
        for _ in range(published):
            publish(writer, bytes(1700))
        sequence = _commit(reservation)
        frame = None
        while (found := reader.poll()) is not None:
            frame = found
        assert frame is not None
        assert frame.sequence == sequence
        assert frame.copy() == b"z" * 900


def test_open_reservations_take_at_most_a_quarter_of_the_arena(writer: Writer) -> None:
    first = writer.reserve(QUARTER - 1000)
    second = writer.reserve(1000)
    third = writer.reserve(1)
    assert [r.revoked for r in (first, second, third)] == [False, False, True]
    second.abandon()
    assert not writer.reserve(1000).revoked


def test_a_reservation_of_more_than_half_the_arena_is_refused(writer: Writer) -> None:
    assert writer.reserve(writer.arena_bytes // 2).revoked
    with pytest.raises(RingError, match="1 to 32768 bytes"):
        writer.reserve(writer.arena_bytes // 2 + 1)
    with pytest.raises(ValueError, match="0 bytes"):
        writer.reserve(0)


def test_at_most_256_are_open_and_forgotten_ones_do_not_count(writer: Writer) -> None:
    held = [writer.reserve(10) for _ in range(256)]
    with pytest.raises(RingError, match="256 reservations are open"):
        writer.reserve(10)
    del held
    gc.collect()
    with writer.reserve(10) as again:
        _receive(again, b"ok")
        _commit(again)


def test_an_abandoned_reservation_leaves_no_frame(writer: Writer, instance: str) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    with writer.reserve(100) as reservation:
        _receive(reservation, b"never seen")
    assert not reservation.open
    reservation.abandon()
    assert publish(writer, b"next") == 1
    frame = reader.poll()
    assert frame is not None
    assert frame.copy() == b"next"


def test_abandoning_over_and_over_does_not_lap_the_readers(writer: Writer, instance: str) -> None:
    publish(writer, b"keep me")
    reader = Ring.attach(instance, "blocks").reader("oldest")
    for _ in range(100):
        with writer.reserve(10_000) as reservation:
            _receive(reservation, b"x" * 10_000)
    frame = reader.poll()
    assert frame is not None
    assert frame.copy() == b"keep me"


def test_advancing_past_the_capacity_is_refused(writer: Writer) -> None:
    reservation = writer.reserve(10)
    reservation.advance(10)
    assert len(reservation.buffer) == 0
    with pytest.raises(ValueError, match="1 bytes received, 0 were free"):
        reservation.advance(1)
    with pytest.raises(ValueError, match="advance by -1"):
        reservation.advance(-1)


@pytest.mark.parametrize("end", [_commit, Reservation.abandon])
def test_a_finished_reservation_says_so(
    writer: Writer, end: Callable[[Reservation], object]
) -> None:
    reservation = writer.reserve(10)
    end(reservation)
    for call in (lambda: reservation.buffer, lambda: reservation.advance(0),
                 lambda: _commit(reservation), lambda: reservation.received):  # fmt: skip
        with pytest.raises(Closed, match="committed or abandoned"):
            call()


def test_an_empty_reservation_makes_an_empty_frame(writer: Writer, instance: str) -> None:
    reader = Ring.attach(instance, "blocks").reader()
    _commit(writer.reserve(10))
    frame = reader.poll()
    assert frame is not None
    assert frame.copy() == b""


def test_a_hash_of_another_length_is_refused_and_the_reservation_stays_open(
    writer: Writer,
) -> None:
    reservation = writer.reserve(10)
    with pytest.raises(ValueError, match="32 bytes"):
        reservation.commit(16, hash=b"short", level=0)
    assert reservation.open
    assert _commit(reservation) == 1
