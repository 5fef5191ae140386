import contextlib

import pytest
from fake_frames import FakeFrame
from hypothesis import given
from hypothesis import strategies as st

from bitcoin_sprint.client import Frame
from bitcoin_sprint.client.decoder import StreamDecoder, ZmqDecoder
from bitcoin_sprint.client.numbering import Numbering
from bitcoin_sprint.errors import ProtocolError
from bitcoin_sprint.frames import Flag, Kind
from bitcoin_sprint.native import crc32c
from bitcoin_sprint.transports.codec import (
    OPEN_FRAMES_MAX,
    End,
    EndStatus,
    FrameHeader,
    Message,
    pack_end,
    pack_message,
    pack_whole,
)
from bitcoin_sprint.transports.handshake import ErrorMessage, Range, Subscribe, Welcome
from bitcoin_sprint.transports.window import Entry


def header_of(sequence, payload, kind=Kind.HEADER, **fields):
    return FrameHeader(
        kind=kind,
        session=7,
        sequence=sequence,
        previous=max(0, sequence - 1),
        publish_ns=10,
        length=len(payload),
        **fields,
    ).pack()


def whole(sequence, payload=b"p" * 80, kind=Kind.HEADER, flags=0):
    return pack_whole(header_of(sequence, payload, kind), payload, crc32c(payload), flags)


@pytest.fixture
def gaps():
    return []


@pytest.fixture
def decoder(gaps):
    return StreamDecoder(Numbering(lambda *gap: gaps.append(gap), None))


def test_a_frame_has_the_headers_fields_and_its_payload(decoder):
    decoder.feed(whole(3, b"abc", flags=Flag.LATE))
    [frame] = decoder.events
    assert isinstance(frame, Frame)
    assert (frame.sequence, frame.previous, frame.session, frame.late) == (3, 2, 7, True)
    assert (frame.payload, frame.payload.readonly) == (b"abc", True)
    assert frame.received_ns > 0


@given(st.lists(st.integers(1, 400), max_size=30))
def test_frames_come_out_the_same_however_the_stream_is_cut(cuts):
    decoder = StreamDecoder(Numbering(None, None))
    data = b"".join(whole(number, bytes([number]) * number) for number in range(1, 12))
    for cut in cuts:
        decoder.feed(data[:cut])
        data = data[cut:]
    decoder.feed(data)
    assert [frame.payload for frame in decoder.events] == [bytes([n]) * n for n in range(1, 12)]


def test_interleaved_frames_end_in_their_own_order(decoder, gaps):
    payload = b"block" * 100
    decoder.feed(pack_message(Message.FRAME, header_of(1, payload, Kind.BLOCK), 5))
    decoder.feed(pack_message(Message.CHUNK, payload[:200], 5))
    decoder.feed(whole(2))
    decoder.feed(pack_message(Message.CHUNK, payload[200:], 5))
    assert [frame.sequence for frame in decoder.events] == [2]
    decoder.feed(pack_end(EndStatus.OK, crc32c(payload), stream=5))
    assert [frame.sequence for frame in decoder.events] == [2, 1]
    assert gaps == []


@pytest.mark.parametrize("status", [EndStatus.OVERWRITTEN, EndStatus.PAST_DEADLINE])
def test_an_aborted_frame_is_never_delivered_and_told_as_a_hole(decoder, gaps, status):
    decoder.feed(whole(1))
    decoder.feed(pack_message(Message.FRAME, header_of(2, b"xx"), 1))
    decoder.feed(pack_message(Message.CHUNK, b"xx", 1))
    decoder.feed(pack_end(status, 0, stream=1))
    assert [frame.sequence for frame in decoder.events] == [1]
    assert (gaps, decoder.aborted) == ([("blocks", 2, 2)], 1)


def test_a_kind_of_a_later_version_is_passed_on_as_a_number(decoder, gaps):
    decoder.feed(whole(1) + whole(2, kind=9) + whole(3) + whole(0, kind=40))
    assert [frame.kind for frame in decoder.events] == [1, 9, 1]
    assert gaps == []


def test_the_handshake_comes_as_events(decoder):
    welcome = Welcome(heartbeat_ms=5, blocks=Range(), tx=Range(), tier="free", network="main")
    error = ErrorMessage(5, "full")
    decoder.feed(pack_message(Message.WELCOME, welcome.pack()))
    decoder.feed(pack_message(Message.ERROR, error.pack()))
    assert list(decoder.events) == [welcome, error]


def test_what_was_lost_before_the_first_frame_shows_however_the_bytes_arrive():
    granted = Range(session=7, start=3, previous=2, oldest=1, newest=9)
    welcome = Welcome(heartbeat_ms=5, blocks=granted, tx=Range(), tier="free", network="main")
    messages = [pack_message(Message.WELCOME, welcome.pack()), whole(6)]
    for pieces in (messages, [b"".join(messages)]):
        gaps = []
        decoder = StreamDecoder(Numbering(lambda *gap, gaps=gaps: gaps.append(gap), None))
        for piece in pieces:
            decoder.feed(piece)
        assert gaps == [("blocks", 3, 5)]


BROKEN = {
    "payload damaged": pack_whole(header_of(1, b"abc"), b"abd", crc32c(b"abc")),
    "payload short": pack_whole(header_of(1, b"abc"), b"ab", crc32c(b"ab")),
    "payload long": pack_whole(header_of(1, b"abc"), b"abcd", crc32c(b"abcd")),
    "chunk of no frame": pack_message(Message.CHUNK, b"x", 2),
    "end of no frame": pack_end(EndStatus.OK, 0, stream=2),
    "opened twice": pack_message(Message.FRAME, header_of(1, b"a"), 2)
    + pack_message(Message.FRAME, header_of(2, b"a"), 2),
    "a client's message": pack_message(Message.SUBSCRIBE, Subscribe().pack()),
    "a header cut short": pack_message(Message.FRAME, header_of(1, b"a")[:-1], 2),
    "a heartbeat that is none": whole(0, b"x" * 9, Kind.HEARTBEAT),
    "too many open": b"".join(
        pack_message(Message.FRAME, header_of(n, b"a"), n) for n in range(1, OPEN_FRAMES_MAX + 2)
    ),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=list(BROKEN))
def test_what_contradicts_the_specification_is_a_protocol_error(decoder, data):
    with pytest.raises(ProtocolError):
        decoder.feed(data)
    assert not [event for event in decoder.events if isinstance(event, Frame)]


@given(st.data())
def test_damage_anywhere_never_delivers_a_wrong_payload(data):
    stream = bytearray(b"".join(whole(n, bytes([n]) * 50) for n in range(1, 6)))
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] ^= data.draw(st.integers(1, 255))
    decoder = StreamDecoder(Numbering(None, None))
    with contextlib.suppress(ProtocolError):
        decoder.feed(stream)
    for frame in decoder.events:
        if isinstance(frame, Frame):
            assert frame.payload == bytes([frame.sequence]) * 50


@given(st.binary(max_size=300))
def test_noise_is_a_protocol_error_and_nothing_else(data):
    with contextlib.suppress(ProtocolError):
        StreamDecoder(Numbering(None, None)).feed(data)


def test_memory_grows_with_what_arrives_not_with_what_is_claimed(decoder):
    header = FrameHeader(
        kind=Kind.BLOCK, session=7, sequence=1, previous=0, publish_ns=1, length=200 << 20
    ).pack()
    decoder.feed(pack_message(Message.FRAME, header, 1))
    decoder.feed(pack_message(Message.CHUNK, bytes(100), 1))
    assert len(decoder._open[1].payload) == 100


def parts_of(sequence, payload, crc=None):
    entry = Entry(FakeFrame(sequence, Kind.TX, payload))
    end = End(EndStatus.OK, 0, entry.crc32c if crc is None else crc).pack()
    return [b"sprint.tx.tx", entry.header(sequence - 1), payload, end]


def test_a_zeromq_message_is_checked_as_well():
    gaps = []
    decoder = ZmqDecoder(Numbering(lambda *gap: gaps.append(gap), None, by_topic=True))
    assert decoder.decode(parts_of(1, b"raw")).payload == b"raw"
    assert decoder.decode(parts_of(5, b"raw")).sequence == 5
    assert gaps == [("tx", 2, 4)]
    with pytest.raises(ProtocolError, match="CRC32C"):
        decoder.decode(parts_of(6, b"raw", crc=1))
    with pytest.raises(ProtocolError, match="3 parts"):
        decoder.decode(parts_of(6, b"raw")[:3])
    good, other = parts_of(6, b"raw"), parts_of(6, b"four")
    with pytest.raises(ProtocolError, match="3 of 4 bytes"):
        decoder.decode([good[0], other[1], good[2], good[3]])
