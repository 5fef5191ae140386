import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitcoin_sprint.client.numbering import Numbering
from bitcoin_sprint.frames import Kind
from bitcoin_sprint.transports.codec import FrameHeader
from bitcoin_sprint.transports.handshake import Position, Range, Start, StartMode


class Rig:
    def __init__(self, **options):
        self.gaps = []
        self.sessions = []
        self.numbering = Numbering(
            lambda *gap: self.gaps.append(gap),
            lambda *change: self.sessions.append(change),
            **options,
        )

    def begin(self, sequence, previous=None, kind=Kind.HEADER, session=7):
        header = FrameHeader(
            kind=kind,
            session=session,
            sequence=sequence,
            previous=sequence - 1 if previous is None else previous,
            publish_ns=1,
            length=0,
        )
        return header, self.numbering.begun(header)

    def deliver(self, sequence, previous=None, **fields):
        header, wanted = self.begin(sequence, previous, **fields)
        if wanted:
            self.numbering.delivered(header)
        return wanted


@pytest.fixture
def rig():
    return Rig()


def test_numbers_in_a_row_are_no_hole(rig):
    assert all(rig.deliver(number) for number in range(5, 20))
    assert rig.gaps == []


def test_what_a_filter_left_out_is_no_hole_and_what_was_lost_is(rig):
    rig.deliver(1)
    rig.deliver(9, previous=1)
    assert rig.gaps == []
    rig.deliver(20, previous=15)
    assert rig.gaps == [("blocks", 10, 15)]
    assert rig.numbering.gaps == 1


def test_the_first_frame_of_a_new_subscriber_is_no_hole(rig):
    rig.deliver(100, previous=90)
    assert rig.gaps == []


def test_after_a_welcome_what_comes_before_the_first_frame_is_known(rig):
    rig.numbering.welcomed("blocks", Kind.HEADER, Range(session=7, start=91, previous=90))
    rig.deliver(100, previous=95)
    assert rig.gaps == [("blocks", 91, 95)]


def test_an_aborted_frame_is_a_hole_of_one(rig):
    rig.deliver(1)
    header, _ = rig.begin(2)
    rig.numbering.aborted(header)
    rig.deliver(3)
    assert rig.gaps == [("blocks", 2, 2)]


def test_the_rings_count_for_themselves(rig):
    rig.deliver(10)
    rig.deliver(3, kind=Kind.TX, session=8)
    rig.deliver(11)
    rig.deliver(5, kind=Kind.MEMPOOL, session=8)
    assert rig.gaps == [("tx", 4, 4)]


def test_on_zeromq_each_kind_counts_for_itself():
    rig = Rig(by_topic=True)
    rig.deliver(1, 0, kind=Kind.HEADER)
    rig.deliver(2, 0, kind=Kind.BLOCK)
    rig.deliver(4, 1, kind=Kind.HEADER)
    assert rig.gaps == []
    rig.deliver(9, 7, kind=Kind.BLOCK)
    assert rig.gaps == [("blocks", 3, 7)]


def test_a_fresh_session_is_told_once_and_numbers_start_again(rig):
    rig.deliver(50)
    rig.deliver(1, session=8)
    rig.deliver(2, session=8)
    assert rig.sessions == [("blocks", 7, 8)]
    assert rig.gaps == []


def test_what_a_fresh_session_had_before_we_came_back_is_a_hole(rig):
    rig.deliver(50)
    rig.deliver(10, session=8)
    assert rig.gaps == [("blocks", 1, 9)]


def test_a_heartbeat_shows_a_loss_at_the_end_and_no_other(rig):
    rig.deliver(5)
    rig.numbering.beat(Position(kinds=0b10, session=7, last=5))
    assert rig.gaps == []
    rig.numbering.beat(Position(kinds=0b10, session=7, last=8))
    rig.numbering.beat(Position(kinds=0b10, session=7, last=8))
    assert rig.gaps == [("blocks", 6, 8)]
    rig.deliver(9)
    assert rig.gaps == [("blocks", 6, 8)]


def test_a_heartbeat_of_a_ring_that_is_not_there_says_nothing(rig):
    rig.numbering.beat(Position(kinds=0b10, session=0, last=0))
    assert rig.numbering.resume(Kind.HEADER) is None


def test_without_callbacks_holes_are_still_counted():
    rig = Rig()
    rig.numbering = Numbering(None, None)
    rig.deliver(1)
    rig.deliver(5, previous=4)
    rig.deliver(1, session=9)
    assert rig.numbering.gaps == 1


def test_resuming_goes_on_at_the_next_number(rig):
    assert rig.numbering.resume(Kind.HEADER) is None
    rig.deliver(5)
    assert rig.numbering.resume(Kind.BLOCK) == Start(StartMode.SEQUENCE, 7, 6)


def test_a_frame_that_broke_off_is_asked_for_again_and_what_passed_it_comes_once(rig):
    rig.deliver(5)
    rig.begin(6, kind=Kind.BLOCK)
    assert rig.deliver(7)
    assert rig.deliver(8)
    assert rig.numbering.resume(Kind.HEADER) == Start(StartMode.SEQUENCE, 7, 6)
    delivered = [number for number in range(6, 11) if rig.deliver(number)]
    assert delivered == [6, 9, 10]
    assert rig.gaps == []


def test_breaking_off_twice_still_brings_everything_once(rig):
    rig.deliver(5)
    rig.begin(6)
    rig.deliver(7)
    rig.numbering.resume(Kind.HEADER)
    rig.begin(6)
    assert rig.numbering.resume(Kind.HEADER) == Start(StartMode.SEQUENCE, 7, 6)
    assert [number for number in range(6, 10) if rig.deliver(number)] == [6, 8, 9]


def test_what_was_gone_when_we_came_back_is_a_hole(rig):
    rig.deliver(5)
    rig.numbering.resume(Kind.HEADER)
    rig.deliver(12)
    assert rig.gaps == [("blocks", 6, 11)]


@given(st.lists(st.sampled_from(["next", "skip", "lose", "open", "end", "abort"]), max_size=60))
def test_every_number_of_the_subscription_is_delivered_or_told(steps):
    rig = Rig()
    rig.numbering.welcomed("blocks", Kind.HEADER, Range(session=7, start=1, previous=0))
    delivered, subscribed, opened = set(), set(), {}
    sequence = previous = 0
    for step in steps:
        if step in ("end", "abort") and opened:
            number, header = opened.popitem()
            if step == "end":
                rig.numbering.delivered(header)
                delivered.add(number)
            else:
                rig.numbering.aborted(header)
            continue
        sequence += 1
        if step == "skip":
            continue
        subscribed.add(sequence)
        if step != "lose":
            header, _ = rig.begin(sequence, previous)
            if step == "open":
                opened[sequence] = header
            else:
                rig.numbering.delivered(header)
                delivered.add(sequence)
        previous = sequence
    rig.numbering.beat(Position(kinds=2, session=7, last=previous))
    told = {n for _, first, last in rig.gaps for n in range(first, last + 1)}
    assert subscribed <= delivered | told | set(opened)
    assert not delivered & told
