import pytest
from fake_frames import FakeFrame
from hypothesis import given
from hypothesis import strategies as st

from bitcoin_sprint.frames import Flag, Kind
from bitcoin_sprint.tiers import Lane
from bitcoin_sprint.transports.codec import unpack_header
from bitcoin_sprint.transports.window import Entry, Window

HEADERS = 1 << Kind.HEADER


def window_of(*frames, capacity=8, lane=Lane.BLOCKS):
    window = Window(lane, capacity)
    for frame in frames:
        window.append(frame)
    return window


def listed(channel):
    return [
        (channel.entry(ordinal).sequence, channel.previous(ordinal))
        for ordinal in range(channel.tail, channel.head)
    ]


def test_an_entry_has_the_fields_of_its_frame():
    frame = FakeFrame(5, Kind.TIP, b"tip", height=7, stamp_ns=99)
    entry = Entry(frame)
    assert (entry.sequence, entry.kind, entry.length, entry.stamp_ns) == (5, Kind.TIP, 3, 99)
    header = unpack_header(entry.header(3, Flag.LATE))
    assert (header.sequence, header.previous, header.height, header.flags) == (5, 3, 7, 2)
    assert (header.session, header.length, header.hash) == (frame.session, 3, frame.hash)


def test_previous_is_the_frame_before_in_the_same_filter():
    window = window_of(
        FakeFrame(1),
        FakeFrame(2, Kind.TIP),
        FakeFrame(3, Kind.TIP),
        FakeFrame(4),
    )
    assert listed(window.channel(0)) == [(1, 0), (2, 1), (3, 2), (4, 3)]
    assert listed(window.channel(HEADERS)) == [(1, 0), (4, 1)]


def test_a_channel_made_late_is_as_if_it_had_been_there_from_the_start():
    frames = [FakeFrame(n, Kind.HEADER if n % 3 else Kind.TIP) for n in (4, 5, 6, 9, 10, 12)]
    early, late = Window(Lane.BLOCKS, 8), Window(Lane.BLOCKS, 8)
    there = early.channel(HEADERS)
    for frame in frames:
        early.append(frame)
        late.append(frame)
    made = late.channel(HEADERS)
    assert listed(made) == listed(there)
    assert made.last_sequence == there.last_sequence


@given(
    numbers=st.lists(st.integers(1, 3), min_size=1, max_size=30),
    kinds=st.lists(st.sampled_from([Kind.HEADER, Kind.BLOCK, Kind.TIP]), min_size=30, max_size=30),
    sessions=st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_early_and_late_channels_agree_whatever_was_published(numbers, kinds, sessions):
    early, late = Window(Lane.BLOCKS, 64), Window(Lane.BLOCKS, 64)
    there = early.channel(HEADERS)
    session, sequence = 1, 0
    for step, kind, fresh in zip(numbers, kinds, sessions, strict=False):
        if fresh:
            session, sequence = session + 1, 0
        sequence += step
        for window in (early, late):
            window.append(FakeFrame(sequence, kind, session=session))
    made = late.channel(HEADERS)
    assert listed(made) == listed(there)
    assert (made.last_sequence, made.session) == (there.last_sequence, there.session)


def test_frames_that_passed_unseen_may_be_of_any_filter():
    window = window_of(FakeFrame(1), FakeFrame(2, Kind.TIP))
    channel = window.channel(HEADERS)
    window.append(FakeFrame(7, Kind.TIP))
    window.append(FakeFrame(8))
    assert listed(channel) == [(1, 0), (8, 6)]
    assert window.lost == 4


def test_a_window_that_starts_late_says_that_something_may_be_missing_but_counts_no_loss():
    window = window_of(FakeFrame(100), FakeFrame(101))
    assert listed(window.channel(0)) == [(100, 99), (101, 100)]
    assert window.lost == 0


def test_ordinals_go_on_over_sessions_and_numbers_begin_again():
    window = window_of(FakeFrame(8), FakeFrame(9), FakeFrame(1, session=8), FakeFrame(2, session=8))
    channel = window.channel(0)
    assert listed(channel) == [(8, 7), (9, 8), (1, 0), (2, 1)]
    assert (channel.head, channel.session_start, channel.session) == (4, 2, 8)
    assert channel.ordinal_of(2) == 3
    assert channel.ordinal_of(99) == 4


def test_the_index_forgets_the_oldest():
    window = window_of(*(FakeFrame(n) for n in range(1, 13)))
    channel = window.channel(0)
    assert (channel.tail, channel.head) == (4, 12)
    assert channel.entry(3) is None
    assert channel.entry(4).sequence == 5
    assert channel.ordinal_of(1) == 4


def test_the_newest_block_starts_with_its_first_word():
    block, other = b"a" * 32, b"b" * 32
    window = window_of(
        FakeFrame(1, Kind.HEADER, hash=other),
        FakeFrame(2, Kind.HEADER, hash=block),
        FakeFrame(3, Kind.BLOCK, hash=other),
        FakeFrame(4, Kind.BLOCK, hash=block),
        FakeFrame(5, Kind.TIP, hash=other),
    )
    assert window.channel(0).newest == 1
    assert window.channel(1 << Kind.BLOCK).newest == 1
    assert window.channel(1 << Kind.TIP).newest == 0


def test_without_blocks_the_newest_is_the_last_frame():
    window = window_of(*(FakeFrame(n, Kind.TX) for n in range(1, 4)), lane=Lane.TX)
    assert window.channel(0).newest == 2
    retracts = window_of(FakeFrame(1, Kind.RETRACT), FakeFrame(2, Kind.RETRACT))
    assert retracts.channel(1 << Kind.RETRACT).newest == 1


def test_a_filter_of_the_other_ring_selects_nothing():
    assert window_of().channel(1 << Kind.TX) is None
    assert window_of(lane=Lane.TX).channel(1 << Kind.TX) is not None


def test_subscribers_with_the_same_filter_share_a_channel():
    window = window_of()
    assert window.channel(HEADERS) is window.channel(HEADERS | 1 << Kind.TX)
    assert window.channel(0) is window.channel((1 << 64) - 1)


def test_the_bytes_of_a_small_frame_are_made_once_and_outlive_its_slot():
    frame = FakeFrame(1)
    window = window_of(frame)
    channel = window.channel(0)
    packed = channel.packed(0, late=False)
    frame.overwrite()
    assert channel.packed(0, late=False) is packed
    assert channel.entry(0).whole()
    assert channel.packed(0, late=True) != packed


def test_a_frame_overwritten_before_it_was_packed_can_not_be():
    frame = FakeFrame(1)
    channel = window_of(frame).channel(0)
    frame.overwrite()
    assert channel.packed(0, late=False) is None
    assert not channel.entry(0).whole()


@pytest.mark.parametrize(("length", "bulky"), [(4_096, False), (4_097, True)])
def test_a_frame_is_bulky_past_4_kib(length, bulky):
    assert Entry(FakeFrame(1, payload=bytes(length))).bulky is bulky


def test_a_window_made_smaller_keeps_the_latest_frames_and_every_ordinal():
    window = window_of(*(FakeFrame(n) for n in range(1, 9)))
    window.resize(3)  # four: a power of two
    channel = window.channel(0)
    assert (channel.tail, channel.head, window.capacity) == (4, 8, 4)
    assert listed(channel) == [(5, 4), (6, 5), (7, 6), (8, 7)]
    window.append(FakeFrame(9))
    assert listed(channel) == [(6, 5), (7, 6), (8, 7), (9, 8)]


def test_a_window_made_larger_has_no_more_past_than_it_had():
    window = window_of(*(FakeFrame(n) for n in range(1, 7)), capacity=4)
    channel, filtered = window.channel(0), window.channel(HEADERS)
    window.resize(16)
    assert listed(channel) == listed(filtered) == [(3, 2), (4, 3), (5, 4), (6, 5)]
    assert channel.entry(1) is None
    for n in range(7, 19):
        window.append(FakeFrame(n))
    assert [sequence for sequence, _ in listed(filtered)] == list(range(3, 19))
    assert channel.ordinal_of(10) == 9
    window.append(FakeFrame(19))
    assert listed(channel)[0] == listed(filtered)[0] == (4, 3)
