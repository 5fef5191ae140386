"""Views into the ring that know whether they are still whole, and numpy access."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from ring_tools import publish

from bitcoin_sprint.errors import Corrupt, Overrun
from bitcoin_sprint.frames import BLOCK_FOOTER, BLOCK_TRAILER_MAGIC, Kind
from bitcoin_sprint.ring import Frame, Ring, Writer

Make = Callable[..., Writer]


def _one(writer: Writer, instance: str, payload: bytes, **fields: int) -> Frame:
    sequence = publish(writer, payload, **fields)
    frame = Ring.attach(instance, "blocks").reader(sequence).poll()
    assert frame is not None
    return frame


def _block(transactions: int, body_length: int = 500) -> tuple[bytes, bytes, list[int]]:
    """A body, its payload and the offsets, as frames.BLOCK_FOOTER describes."""
    body = bytes(range(256)) * (body_length // 256 + 1)
    body = body[:body_length]
    offsets = [81 + 7 * index for index in range(transactions)]
    packed = np.array(offsets, "<u4").tobytes()
    txids = b"".join(bytes([index % 256]) * 32 for index in range(transactions))
    trailer = (
        bytes(-len(body) % 8) + packed + bytes(-len(packed) % 8) + txids
        + BLOCK_FOOTER.pack(len(body), transactions, 1, BLOCK_TRAILER_MAGIC)
    )  # fmt: skip
    return body, body + trailer, offsets


@pytest.mark.parametrize("transactions", [1, 2, 3, 4000])
@pytest.mark.parametrize("body_length", [496, 497, 503])
def test_numpy_views_of_a_block(
    make_writer: Make, instance: str, transactions: int, body_length: int
) -> None:
    writer = make_writer(arena_bytes=1 << 20)
    publish(writer, b"shift the arena by an odd length")
    body, payload, offsets = _block(transactions, body_length)
    frame = _one(writer, instance, payload, kind=Kind.BLOCK)
    assert frame.header.tobytes() == body[:80]
    assert frame.body.tobytes() == body
    assert frame.offsets.dtype == np.uint32
    assert frame.offsets.tolist() == offsets
    assert frame.txids.shape == (transactions, 32)
    assert (frame.txids[:, 0] == np.arange(transactions) % 256).all()
    assert frame.valid()
    for view in (frame.header, frame.body, frame.txids, frame.offsets):
        assert not view.flags.writeable
        assert not view.flags.owndata


def test_a_header_frame_has_a_header_and_no_trailer(writer: Writer, instance: str) -> None:
    frame = _one(writer, instance, bytes(range(80)), kind=Kind.HEADER)
    assert frame.header.tolist() == list(range(80))
    assert frame.body.tobytes() == bytes(range(80))
    with pytest.raises(ValueError, match="kind 1 has no trailer"):
        _ = frame.txids


def test_a_transaction_frame_has_no_header(writer: Writer, instance: str) -> None:
    with pytest.raises(ValueError, match="kind 16 has no block header"):
        _ = _one(writer, instance, bytes(100), kind=Kind.TX).header


@pytest.mark.parametrize(
    "payload",
    [b"", b"x" * 15, b"x" * 600, BLOCK_FOOTER.pack(0, 1 << 31, 1, BLOCK_TRAILER_MAGIC),
     bytes(80) + BLOCK_FOOTER.pack(500, 0, 1, BLOCK_TRAILER_MAGIC),
     bytes(80) + BLOCK_FOOTER.pack(80, 0, 2, BLOCK_TRAILER_MAGIC)],
)  # fmt: skip
def test_a_block_without_a_sound_trailer_is_corrupt(
    writer: Writer, instance: str, payload: bytes
) -> None:
    frame = _one(writer, instance, payload, kind=Kind.BLOCK)
    with pytest.raises(Corrupt, match="has no trailer"):
        _ = frame.txids


def test_a_view_knows_when_it_is_gone(make_writer: Make, instance: str) -> None:
    writer = make_writer(slot_count=256)
    _, payload, _ = _block(10)
    frame = _one(writer, instance, payload, kind=Kind.BLOCK)
    view = frame.payload
    assert frame.valid()
    assert frame.copy() == payload
    for _ in range(20):
        publish(writer, b"\xee" * 10_000)
    assert not frame.valid()
    assert frame.copy() is None
    assert bytes(view) != payload
    with pytest.raises(Overrun, match="overwritten"):
        _ = frame.txids
    assert (frame.sequence, frame.kind, frame.length) == (1, Kind.BLOCK, len(payload))


def test_a_view_outlives_its_slot(make_writer: Make, instance: str) -> None:
    """Only the arena decides: slots may have gone round many times."""
    writer = make_writer(slot_count=4, arena_bytes=1 << 20)
    frame = _one(writer, instance, b"long lived")
    for _ in range(100):
        publish(writer, b"short")
    assert frame.valid()
    assert frame.copy() == b"long lived"


def test_a_frame_shows_what_it_is(writer: Writer, instance: str) -> None:
    frame = _one(writer, instance, b"x" * 80, kind=Kind.HEADER, height=7)
    assert repr(frame) == "<Frame 1 HEADER height=7 0000000000000000… 80 bytes>"


def test_a_frame_stays_in_its_process(writer: Writer, instance: str) -> None:
    frame = _one(writer, instance, b"x")
    with pytest.raises(TypeError, match="shared memory"):
        pickle.dumps(frame)
    with pytest.raises(TypeError, match="shared memory"):
        copy.deepcopy(frame)
