import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitcoin_sprint.errors import ProtocolError
from bitcoin_sprint.frames import Kind
from bitcoin_sprint.transports.codec import HANDSHAKE_BYTES_MAX
from bitcoin_sprint.transports.handshake import (
    NAME_BYTES_MAX,
    ErrorMessage,
    Heartbeat,
    Position,
    Range,
    Refusal,
    Start,
    StartMode,
    Subscribe,
    VersionRefused,
    Welcome,
    kinds_mask,
    kinds_of,
)

u64 = st.integers(0, (1 << 64) - 1)
starts = st.builds(Start, st.sampled_from(StartMode), u64, u64)


def text(limit):
    fits = st.text(max_size=limit).filter(lambda value: len(value.encode()) <= limit)
    return fits


ranges = st.builds(Range, session=u64, start=u64, previous=u64, oldest=u64, newest=u64)


@given(
    st.builds(
        Subscribe,
        blocks=starts,
        tx=starts,
        kinds=st.frozensets(st.integers(0, 63)),
        tier=text(32),
        key=text(256),
        name=text(64),
    )
)
def test_a_subscription_comes_back_as_it_was_sent_and_fits_its_bound(subscribe):
    packed = subscribe.pack()
    assert Subscribe.unpack(packed) == subscribe
    assert len(packed) <= HANDSHAKE_BYTES_MAX
    assert Subscribe.unpack(packed + b"fields of a later version") == subscribe


@given(
    st.builds(
        Welcome,
        heartbeat_ms=st.integers(0, (1 << 32) - 1),
        blocks=ranges,
        tx=ranges,
        tier=text(32),
        network=text(64),
        server=text(64),
        memory_instance=text(64),
        memory_directory=text(256),
    )
)
def test_a_welcome_comes_back_as_it_was_sent(welcome):
    assert Welcome.unpack(welcome.pack()) == welcome


@pytest.mark.parametrize("message", [Subscribe, Welcome, ErrorMessage])
@given(data=st.binary(max_size=200))
def test_garbage_in_a_handshake_is_a_protocol_error_and_nothing_else(message, data):
    with contextlib.suppress(ProtocolError):
        message.unpack(data)


@pytest.mark.parametrize(
    "message",
    [
        Subscribe(name="tail"),
        Welcome(heartbeat_ms=1000, blocks=Range(), tx=Range(), tier="free", network="main"),
        ErrorMessage(Refusal.FULL, "full"),
    ],
)
def test_a_message_cut_short_anywhere_is_refused(message):
    packed = message.pack()
    for length in range(len(packed)):
        with pytest.raises(ProtocolError, match="cut short"):
            type(message).unpack(packed[:length])


def test_another_version_is_told_apart_from_nonsense():
    packed = b"\x02\x00" + Subscribe().pack()[2:]
    with pytest.raises(VersionRefused, match="handshake of version 2"):
        Subscribe.unpack(packed)


def test_an_unknown_start_mode_is_refused():
    packed = bytearray(Subscribe().pack())
    packed[16] = 9
    with pytest.raises(ProtocolError, match="start mode 9"):
        Subscribe.unpack(bytes(packed))


def test_a_name_past_its_bound_is_refused_on_both_sides():
    with pytest.raises(ProtocolError, match="name of 65 bytes, at most 64"):
        Subscribe(name="x" * (NAME_BYTES_MAX + 1)).pack()
    packed = Subscribe().pack()[:-2] + b"\x41\x00" + b"x" * 65
    with pytest.raises(ProtocolError, match="name of 65 bytes, at most 64"):
        Subscribe.unpack(packed)


def test_text_that_is_not_utf8_is_refused():
    packed = Subscribe().pack()[:-2] + b"\x02\x00\xff\xfe"
    with pytest.raises(ProtocolError, match="not UTF-8"):
        Subscribe.unpack(packed)


def test_an_error_keeps_a_code_that_this_version_does_not_know():
    assert ErrorMessage.unpack(ErrorMessage(99, "later").pack()) == ErrorMessage(99, "later")


def test_kinds_are_bits():
    assert kinds_mask({Kind.HEADER, Kind.TX}) == 1 << 1 | 1 << 16
    assert kinds_of(1 << 1 | 1 << 16) == {Kind.HEADER, Kind.TX}


def test_a_heartbeat_names_the_last_number_of_each_position():
    beat = Heartbeat(
        (Position(kinds=30, session=1, last=2), Position(kinds=1 << 16, session=3, last=4))
    )
    assert Heartbeat.unpack(beat.pack()) == beat
    with pytest.raises(ProtocolError, match="HEARTBEAT of 47 bytes"):
        Heartbeat.unpack(beat.pack()[:-1])
