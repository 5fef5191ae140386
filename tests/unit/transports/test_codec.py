import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle.crc32c import crc32c as slow_crc32c

from bitcoin_sprint.errors import ProtocolError
from bitcoin_sprint.frames import Chain, Flag, Kind, Level
from bitcoin_sprint.native import crc32c
from bitcoin_sprint.transports.codec import (
    CHUNK_BYTES_MAX,
    END_BYTES,
    HEADER_BYTES,
    PAYLOAD_BYTES_MAX,
    PREFIX,
    End,
    EndStatus,
    FrameHeader,
    Message,
    MessageSplitter,
    pack_end,
    pack_message,
    pack_whole,
    unpack_header,
)

NOW_NS = 1_763_643_600_123_456_789
HEADER = FrameHeader(
    kind=Kind.BLOCK,
    chain=Chain.BITCOIN,
    level=Level.MERKLE,
    flags=Flag.UNANCHORED,
    height=840_000,
    session=0x1122334455667788,
    sequence=42,
    previous=40,
    publish_ns=NOW_NS,
    origin_ns=NOW_NS - 1_500_000,
    first_byte_ns=NOW_NS - 900_000,
    last_byte_ns=NOW_NS - 100_000,
    hash=bytes(range(32)),
    length=1_234,
)

u8 = st.integers(0, 255)
u32 = st.integers(0, (1 << 32) - 1)
u64 = st.integers(0, (1 << 64) - 1)
headers = st.builds(
    FrameHeader,
    kind=u8,
    chain=u8,
    level=u8,
    flags=u32,
    height=st.integers(-(1 << 31), (1 << 31) - 1),
    session=u64,
    sequence=u64,
    previous=u64,
    publish_ns=u64,
    origin_ns=u64,
    first_byte_ns=u64,
    last_byte_ns=u64,
    hash=st.binary(min_size=32, max_size=32),
    length=st.integers(0, PAYLOAD_BYTES_MAX),
)


def resealed(data: bytes) -> bytes:
    return data[:-4] + slow_crc32c(data[:-4]).to_bytes(4, "little")


def messages_of(*pieces: bytes):
    splitter = MessageSplitter()
    found = []
    for piece in pieces:
        splitter.feed(piece)
        while (message := splitter.next()) is not None:
            kind, stream, body = message
            found.append((kind, stream, bytes(body)))
    return found, splitter.pending


def test_a_header_comes_back_as_it_was_sent():
    packed = HEADER.pack()
    assert len(packed) == HEADER_BYTES == 104
    assert packed[:4] == b"SPRW"
    assert unpack_header(packed) == HEADER


def test_the_header_is_sealed_by_a_crc32c_that_a_plain_implementation_agrees_with():
    packed = HEADER.pack()
    assert resealed(packed) == packed


def test_a_time_that_is_not_known_stays_not_known():
    header = unpack_header(
        FrameHeader(kind=1, session=1, sequence=1, previous=0, publish_ns=5, length=0).pack()
    )
    assert (header.origin_ns, header.first_byte_ns, header.last_byte_ns) == (0, 0, 0)


def test_times_are_microseconds_before_publishing_and_saturate():
    packed = FrameHeader(
        kind=1,
        session=1,
        sequence=1,
        previous=0,
        publish_ns=NOW_NS,
        length=0,
        origin_ns=1,
        first_byte_ns=NOW_NS + 7_000,
        last_byte_ns=NOW_NS * 2,
    ).pack()
    offsets = [int.from_bytes(packed[at : at + 4], "little", signed=True) for at in (48, 52, 56)]
    assert offsets == [(1 << 31) - 1, -7, -(1 << 31) + 1]


@given(headers)
def test_any_header_survives_and_packs_the_same_again(header):
    packed = header.pack()
    once = unpack_header(packed)
    assert once.pack() == packed or header.publish_ns < (1 << 41)
    for name in ("kind", "flags", "height", "session", "sequence", "previous", "hash", "length"):
        assert getattr(once, name) == getattr(header, name)


@given(headers, st.integers(0, HEADER_BYTES * 8 - 1))
def test_any_single_bit_flipped_in_a_header_is_noticed(header, bit):
    damaged = bytearray(header.pack())
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolError):
        unpack_header(damaged)


@pytest.mark.parametrize(
    ("offset", "value", "complaint"),
    [
        (0, b"\0\0\0\0", "magic 0x00000000"),
        (4, b"\2", "version 2"),
        (92, (PAYLOAD_BYTES_MAX + 1).to_bytes(4, "little"), "frame of 268435457 bytes"),
    ],
)
def test_a_header_that_this_version_cannot_take_is_refused(offset, value, complaint):
    packed = bytearray(HEADER.pack())
    packed[offset : offset + len(value)] = value
    with pytest.raises(ProtocolError, match=complaint):
        unpack_header(resealed(bytes(packed)))


def test_a_header_cut_short_is_refused():
    with pytest.raises(ProtocolError, match="103 bytes"):
        unpack_header(HEADER.pack()[:-1])


def test_a_whole_frame_is_three_messages_on_stream_0():
    payload = b"x" * 80
    crc = crc32c(payload)
    found, left = messages_of(pack_whole(HEADER.pack(), payload, crc, flags=Flag.LATE))
    assert [(kind, stream) for kind, stream, _ in found] == [
        (Message.FRAME, 0),
        (Message.CHUNK, 0),
        (Message.END, 0),
    ]
    assert found[1][2] == payload
    assert End.unpack(found[2][2]) == End(EndStatus.OK, Flag.LATE, crc)
    assert left == 0


def test_a_frame_without_payload_needs_no_chunk():
    found, _ = messages_of(pack_whole(HEADER.pack(), b"", 0))
    assert [kind for kind, _, _ in found] == [Message.FRAME, Message.END]


@given(
    st.lists(st.tuples(st.integers(0, 65_535), st.binary(max_size=300)), max_size=8),
    st.lists(st.integers(1, 64), max_size=40),
)
def test_messages_come_out_whole_however_the_socket_cuts_them(sent, cuts):
    data = b"".join(pack_message(Message.CHUNK, body, stream) for stream, body in sent)
    pieces = []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    found, left = messages_of(*pieces, data)
    assert found == [(Message.CHUNK, stream, body) for stream, body in sent]
    assert left == 0


def test_a_body_longer_than_its_kind_allows_is_refused_before_it_arrives():
    splitter = MessageSplitter()
    splitter.feed(PREFIX.pack(Message.CHUNK, 0, 0, CHUNK_BYTES_MAX + 1))
    with pytest.raises(ProtocolError, match="CHUNK of 65537 bytes, at most 65536"):
        splitter.next()


def test_an_unknown_message_is_refused():
    splitter = MessageSplitter()
    splitter.feed(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(ProtocolError, match="message of type 71"):
        splitter.next()


@given(st.binary(max_size=400))
def test_garbage_is_refused_or_waits_for_more_but_never_anything_else(data):
    splitter = MessageSplitter()
    splitter.feed(data)
    try:
        while splitter.next() is not None:
            pass
    except ProtocolError:
        pass


def test_an_end_of_another_length_or_status_is_refused():
    with pytest.raises(ProtocolError, match="END of 7 bytes"):
        End.unpack(bytes(7))
    with pytest.raises(ProtocolError, match="status 9"):
        End.unpack(b"\x09" + bytes(END_BYTES - 1))


def test_an_abort_names_its_stream():
    found, _ = messages_of(pack_end(EndStatus.OVERWRITTEN, 0, stream=7))
    assert found[0][:2] == (Message.END, 7)
    assert End.unpack(found[0][2]).status is EndStatus.OVERWRITTEN
