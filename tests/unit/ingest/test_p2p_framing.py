"""The frame reader without a socket: whatever way the bytes come, the messages are the same."""

from __future__ import annotations

import contextlib
import hashlib
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcoin_sprint.ingest.p2p_causes import Cause, PeerFault
from bitcoin_sprint.ingest.p2p_framing import (
    HEADER_BYTES,
    RECEIVE_BYTES_MAX,
    STAGING_BYTES,
    FrameReader,
    MessageHeader,
    pack_frame,
)

MAGIC = bytes.fromhex("fabfb5da")
LIMIT = 4_000_000


class Listener:
    """A sink that writes down what it is told."""

    def __init__(self) -> None:
        self.frames: list[tuple[str, bytes, int, int]] = []
        self.kept: list[memoryview] = []
        self.heads: list[tuple[bytes, int]] = []
        self.bad: list[tuple[str, int]] = []
        self.wants_bodies = True
        self.reads_long = True
        self.reader: FrameReader | None = None
        self.stop_after: int | None = None

    def payload_bytes_max(self, command: str) -> int:
        return 100 if command == "ping" else LIMIT

    def reads(self, command: str) -> bool:
        return self.reads_long and command != "unread"

    def block_head(self, header: bytes, first_byte_ns: int) -> bool:
        self.heads.append((header, first_byte_ns))
        return self.wants_bodies

    def frame(self, command: str, payload: memoryview, first_ns: int, last_ns: int) -> None:
        assert payload.readonly
        self.frames.append((command, bytes(payload), first_ns, last_ns))
        if command == "block":
            self.kept.append(payload)
        if self.stop_after == len(self.frames):
            assert self.reader is not None
            self.reader.stop()

    def bad_checksum(self, command: str, length: int) -> None:
        self.bad.append((command, length))

    @property
    def messages(self) -> list[tuple[str, bytes]]:
        return [(command, payload) for command, payload, _, _ in self.frames]


def reading() -> tuple[FrameReader, Listener]:
    listener = Listener()
    listener.reader = FrameReader(MAGIC, listener)
    return listener.reader, listener


def feed(reader: FrameReader, data: bytes, now_ns: int = 1) -> None:
    """Hand over bytes as a socket would: as much as the reader's buffer takes."""
    view = memoryview(data)
    while view:
        buffer = reader.buffer()
        assert len(buffer) > 0
        count = min(len(buffer), len(view))
        buffer[:count] = view[:count]
        reader.received(count, now_ns)
        view = view[count:]


def block(length: int, seed: int = 0) -> bytes:
    return hashlib.shake_128(seed.to_bytes(8, "little")).digest(length)


lengths = st.one_of(
    st.integers(0, 200), st.sampled_from([79, 80, 81]), st.integers(STAGING_BYTES - 40, 70_000)
)
streams = st.lists(st.tuples(st.sampled_from(["tx", "inv", "block", "other"]), lengths), max_size=6)


@settings(max_examples=60, deadline=None)
@given(streams, st.lists(st.integers(1, 66_000), min_size=1, max_size=8))
def test_messages_are_the_same_however_the_stream_is_cut(
    stream: list[tuple[str, int]], cuts: list[int]
) -> None:
    sent = [(command, block(length, index)) for index, (command, length) in enumerate(stream)]
    data = b"".join(pack_frame(MAGIC, command, payload) for command, payload in sent)
    reader, listener = reading()
    position, turn = 0, 0
    while position < len(data):
        step = cuts[turn % len(cuts)]
        feed(reader, data[position : position + step])
        position, turn = position + step, turn + 1
    assert listener.messages == sent
    assert [bytes(kept) for kept in listener.kept] == [p for c, p in sent if c == "block"]
    assert listener.heads == [(p[:80], 1) for c, p in sent if c == "block" and len(p) >= 80]
    assert reader.partial_since_ns == 0
    assert reader.bytes_received == len(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 3))
def test_any_bytes_end_in_messages_or_in_a_fault(junk: bytes, magic_bytes: int) -> None:
    reader, listener = reading()
    with contextlib.suppress(PeerFault):
        feed(reader, MAGIC[:magic_bytes] + junk)
        feed(reader, MAGIC + junk)
    assert all(len(payload) <= LIMIT for _, payload in listener.messages)


def test_a_block_is_received_piece_by_piece_into_one_buffer_of_its_own_size() -> None:
    reader, listener = reading()
    body = block(1_000_000)
    feed(reader, pack_frame(MAGIC, "block", body)[: HEADER_BYTES + 10])
    position = 10
    while position < len(body):
        buffer = reader.buffer()
        assert len(buffer) == min(len(body) - position, RECEIVE_BYTES_MAX)
        buffer[:] = body[position : position + len(buffer)]
        position += len(buffer)
        reader.received(len(buffer), 2)
        assert listener.kept == [] or position == len(body)
    assert listener.kept[0] == body
    assert listener.kept[0].obj is buffer.obj


def test_a_blocks_head_is_handed_on_with_its_eightieth_byte() -> None:
    reader, listener = reading()
    data = pack_frame(MAGIC, "block", block(500))
    feed(reader, data[: HEADER_BYTES + 79], now_ns=5)
    assert listener.heads == []
    feed(reader, data[HEADER_BYTES + 79 : HEADER_BYTES + 80], now_ns=6)
    assert listener.heads == [(block(500)[:80], 5)]
    assert listener.frames == []


def test_stamps_are_those_of_a_messages_first_and_last_bytes() -> None:
    reader, listener = reading()
    first, second = pack_frame(MAGIC, "tx", b"a" * 50), pack_frame(MAGIC, "tx", b"b" * 50)
    feed(reader, first[:1], now_ns=10)
    feed(reader, first[1:] + second[:30], now_ns=20)
    assert reader.partial_since_ns == 20
    feed(reader, second[30:], now_ns=30)
    assert [(first_ns, last_ns) for _, _, first_ns, last_ns in listener.frames] == [
        (10, 20),
        (20, 30),
    ]


def test_a_refused_body_is_drained_and_what_follows_is_read() -> None:
    reader, listener = reading()
    listener.wants_bodies = False
    data = pack_frame(MAGIC, "block", block(200_000)) + pack_frame(MAGIC, "tx", b"after")
    feed(reader, data[:100_000])
    assert reader.partial_length == 200_000
    assert len(reader.buffer()) <= STAGING_BYTES
    feed(reader, data[100_000:])
    assert listener.messages == [("tx", b"after")]


def test_a_long_message_that_nobody_reads_is_not_stored() -> None:
    reader, listener = reading()
    data = pack_frame(MAGIC, "unread", block(3_000_000))
    tracemalloc.start()
    try:
        feed(reader, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    assert listener.frames == []
    feed(reader, pack_frame(MAGIC, "tx", b"after"))
    assert listener.messages == [("tx", b"after")]


def test_a_wrong_checksum_is_told_and_passed_over() -> None:
    reader, listener = reading()
    broken = bytearray(pack_frame(MAGIC, "tx", b"x" * 40))
    broken[20] ^= 1
    long = bytearray(pack_frame(MAGIC, "block", block(100_000)))
    long[-1] ^= 1
    feed(reader, bytes(broken + long) + pack_frame(MAGIC, "tx", b"good"))
    assert listener.bad == [("tx", 40), ("block", 100_000)]
    assert listener.messages == [("tx", b"good")]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_wrong_magic_is_found_at_its_first_wrong_byte(count: int) -> None:
    reader, _ = reading()
    wrong = bytearray(MAGIC[:count])
    wrong[-1] ^= 0xFF
    with pytest.raises(PeerFault, match=f"found {wrong.hex()}, expected fabfb5da") as caught:
        feed(reader, bytes(wrong))
    assert caught.value.cause is Cause.WRONG_MAGIC


def test_a_length_above_the_commands_limit_is_refused_from_the_header_alone() -> None:
    reader, _ = reading()
    header = MessageHeader(MAGIC, "ping", 101, bytes(4)).encode()
    with pytest.raises(PeerFault, match="ping of 101 bytes, at most 100") as caught:
        feed(reader, header)
    assert caught.value.cause is Cause.OVERSIZE


def test_a_command_that_is_not_ascii_is_refused() -> None:
    reader, _ = reading()
    with pytest.raises(PeerFault) as caught:
        feed(reader, MAGIC + b"\xff" * 20)
    assert caught.value.cause is Cause.BAD_COMMAND


def test_nothing_is_handed_on_after_stop() -> None:
    reader, listener = reading()
    listener.stop_after = 1
    feed(reader, pack_frame(MAGIC, "tx", b"one") + pack_frame(MAGIC, "tx", b"two"))
    feed(reader, pack_frame(MAGIC, "tx", b"three"))
    assert listener.messages == [("tx", b"one")]


def test_an_announced_size_costs_no_memory_before_the_bytes_come() -> None:
    readers = [reading()[0] for _ in range(50)]
    before = _resident_bytes()
    for reader in readers:
        feed(reader, MessageHeader(MAGIC, "block", LIMIT, bytes(4)).encode())
        assert reader.partial_length == LIMIT
    assert _resident_bytes() - before < 50_000_000


def _resident_bytes() -> int:
    with open("/proc/self/statm") as status:
        return int(status.read().split()[1]) * 4096
