import pytest
from fake_frames import FakeClock, FakeFrame, FakeSocket, FakeTimes
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcoin_sprint.frames import Kind
from bitcoin_sprint.tiers import TIERS, Cursor, Lane
from bitcoin_sprint.tiers.cursor import Tally
from bitcoin_sprint.transports.codec import CHUNK_BYTES_MAX
from bitcoin_sprint.transports.delivery import Delivery, Turn
from bitcoin_sprint.transports.place import Place
from bitcoin_sprint.transports.window import Window

FREE, TURBO = TIERS["free"], TIERS["turbo"]
BULKY = bytes(range(256)) * 800  # 204,800 bytes: four chunks


class Rig:
    """A subscriber of both rings on a socket, a clock and rings that do as they are told."""

    def __init__(self, policy, *, room=None, kinds=0, backlog=()):
        self.clock = FakeClock()
        self.socket = FakeSocket(room)
        self.times = FakeTimes()
        self.tally = Tally()
        self.windows = {lane: Window(lane, 2 * policy.buffer_frames) for lane in Lane}
        self.blocks_relayed = []
        self._next = dict.fromkeys(Lane, 1)
        for kind in backlog:
            self.publish(kind)
        places = []
        for lane, window in self.windows.items():
            channel = window.channel(kinds)
            if channel is not None:
                cursor = Cursor(policy, lane, start=0, joined=channel.head, tally=self.tally)
                places.append(Place(channel, cursor))
        self.delivery = Delivery(
            self.socket,
            policy,
            places,
            self.tally,
            self.times,
            self.clock,
            lambda entry, elapsed: self.blocks_relayed.append((entry.sequence, elapsed)),
        )

    def publish(self, kind=Kind.HEADER, payload=b"p" * 80, **fields):
        lane = Lane.TX if kind >= Kind.TX else Lane.BLOCKS
        frame = FakeFrame(self._next[lane], kind, payload, stamp_ns=self.clock.now, **fields)
        self._next[lane] += 1
        self.windows[lane].append(frame)
        return frame

    def run(self):
        """Turns until there is nothing to do or the socket is full."""
        for _ in range(10_000):
            turn = self.delivery.turn()
            if turn is not Turn.MORE:
                return turn
        raise AssertionError("never comes to an end")

    def lost(self):
        return self.tally.missed, self.tally.overwritten


@pytest.fixture(params=[FREE, TURBO], ids=["free", "turbo"])
def policy(request):
    return request.param


def test_small_frames_leave_together_in_order(policy):
    rig = Rig(policy)
    for _ in range(5):
        rig.publish()
    assert rig.run() is Turn.IDLE
    assert rig.socket.sequences() == [1, 2, 3, 4, 5]
    assert rig.socket.calls == 1
    assert rig.tally.sent == 5
    assert rig.tally.bytes == len(rig.socket.taken)


def test_a_bulky_frame_leaves_in_chunks_and_arrives_whole(policy):
    rig = Rig(policy)
    rig.publish(Kind.BLOCK, BULKY)
    assert rig.run() is Turn.IDLE
    [frame] = rig.socket.frames()
    assert frame.payload == BULKY
    assert rig.socket.calls == 2 + -(-len(BULKY) // CHUNK_BYTES_MAX)
    assert rig.tally.sent == 1


def test_a_header_passes_between_the_chunks_of_a_block():
    rig = Rig(TURBO)
    rig.publish(Kind.BLOCK, BULKY)
    rig.delivery.turn()
    rig.publish(Kind.HEADER)
    rig.run()
    assert rig.socket.sequences() == [2, 1]
    assert rig.socket.gaps == []


def test_a_header_passes_a_block_that_waits_behind_another_and_no_hole_shows():
    rig = Rig(TURBO)
    rig.publish(Kind.BLOCK, BULKY)
    rig.delivery.turn()
    rig.publish(Kind.BLOCK, BULKY)
    rig.publish(Kind.HEADER)
    rig.run()
    assert rig.socket.sequences() == [3, 1, 2]
    assert rig.socket.gaps == []


def test_blocks_go_before_transactions(policy):
    rig = Rig(policy)
    rig.publish(Kind.TX, b"t" * 300)
    rig.publish(Kind.HEADER)
    rig.run()
    assert [frame.kind for frame in rig.socket.frames()] == [Kind.HEADER, Kind.TX]


def test_every_cut_of_the_socket_gives_the_same_frames(policy):
    whole = Rig(policy)
    sizes = [80, 9_000, 80, 70_000, 4_096, 4_097]
    for size in sizes:
        whole.publish(Kind.BLOCK, bytes(size))
    whole.run()
    total = len(whole.socket.taken)
    for step in (1, 7, 111, 4_099, 65_543):
        rig = Rig(policy, room=0)
        for size in sizes:
            rig.publish(Kind.BLOCK, bytes(size))
        for _ in range(total // step + 2):
            rig.socket.room = step
            rig.run()
        assert sorted(len(frame.payload) for frame in rig.socket.frames()) == sorted(sizes)
        assert rig.tally.sent == 6
        assert len(rig.socket.taken) == total
        assert rig.lost() == (0, 0)


def test_a_full_socket_costs_one_refused_attempt_and_forgets_nothing(policy):
    rig = Rig(policy, room=0)
    rig.publish()
    assert rig.run() is Turn.BLOCKED
    assert (rig.socket.calls, rig.delivery.blocked) == (1, True)
    rig.socket.room = None
    assert rig.run() is Turn.IDLE
    assert rig.socket.sequences() == [1]
    assert rig.delivery.congested_since_ns == 0


def test_relay_time_runs_from_publish_to_the_first_byte_accepted(policy):
    rig = Rig(policy, room=0)
    rig.publish()
    rig.run()
    rig.clock.advance(123_000)
    rig.socket.room = 10
    rig.run()
    assert rig.times.values == [123_000]
    rig.socket.room = None
    rig.run()
    assert rig.times.values == [123_000]
    assert rig.blocks_relayed == [(1, 123_000)]


# ---- best effort ---------------------------------------------------------------------------


def test_best_effort_skips_what_is_older_than_its_window_and_the_client_sees_the_hole():
    rig = Rig(FREE, room=0)
    rig.publish()
    rig.run()
    rig.clock.advance(FREE.relay_target_ns + 1)
    rig.publish()
    rig.socket.room = None
    rig.run()
    assert rig.socket.sequences() == [2]
    assert rig.lost() == (1, 0)
    assert (rig.tally.late_peer, rig.tally.late_queue) == (1, 0)


def test_lateness_is_our_queue_where_the_peer_took_everything():
    rig = Rig(FREE)
    rig.publish()
    rig.clock.advance(FREE.relay_target_ns + 1)
    rig.run()
    assert (rig.tally.late_peer, rig.tally.late_queue) == (0, 1)


def test_a_skipped_frame_shows_as_a_hole_in_front_of_the_next():
    rig = Rig(FREE)
    rig.publish()
    rig.run()
    rig.publish()
    rig.clock.advance(FREE.relay_target_ns + 1)
    rig.publish()
    rig.run()
    assert rig.socket.sequences() == [1, 3]
    assert rig.socket.gaps == [("blocks", 2, 2)]


def test_best_effort_aborts_a_block_whose_chunk_is_stuck_past_the_write_deadline():
    rig = Rig(FREE, room=100_000)
    rig.publish(Kind.BLOCK, BULKY)
    assert rig.run() is Turn.BLOCKED
    rig.clock.advance(FREE.write_deadline_ns + 1)
    rig.socket.room = None
    rig.run()
    assert rig.socket.frames() == []
    assert rig.socket.gaps == [("blocks", 1, 1)]
    assert rig.lost() == (1, 0)
    assert (rig.tally.aborted, rig.tally.late_peer, rig.tally.sent) == (1, 1, 0)


def test_a_chunk_refused_whole_is_judged_from_its_first_attempt():
    rig = Rig(FREE)
    rig.publish(Kind.BLOCK, BULKY)
    rig.delivery.turn()
    rig.socket.room = 0
    assert rig.run() is Turn.BLOCKED
    rig.clock.advance(FREE.write_deadline_ns + 1)
    rig.socket.room = None
    rig.run()
    assert (rig.socket.frames(), rig.socket.aborted) == ([], 1)


def test_a_small_frame_stuck_half_way_past_the_deadline_ends_in_an_abort():
    rig = Rig(FREE, room=20)
    rig.publish()
    rig.run()
    rig.clock.advance(FREE.write_deadline_ns + 1)
    rig.socket.room = None
    rig.run()
    assert rig.socket.frames() == []
    assert rig.socket.gaps == [("blocks", 1, 1)]
    assert (rig.lost(), rig.tally.aborted, rig.tally.sent) == ((1, 0), 1, 0)


def test_a_small_frame_whose_end_has_begun_to_leave_is_delivered_after_all():
    rig = Rig(FREE)
    rig.publish()
    rig.run()
    whole = len(rig.socket.taken)
    rig.socket.room = whole - 3
    rig.publish()
    rig.run()
    rig.clock.advance(FREE.write_deadline_ns + 1)
    rig.socket.room = None
    rig.run()
    assert rig.socket.sequences() == [1, 2]
    assert (rig.lost(), rig.tally.sent, rig.tally.late_peer) == ((0, 0), 2, 1)


def test_best_effort_past_its_buffer_drops_the_oldest():
    rig = Rig(FREE, room=0)
    for _ in range(FREE.buffer_frames + 9):
        rig.publish()
    rig.socket.room = None
    rig.run()
    assert rig.socket.sequences()[0] == 10
    assert rig.lost() == (9, 0)


def test_the_past_that_was_asked_for_is_delivered_however_old():
    rig = Rig(FREE, backlog=[Kind.HEADER] * 20)
    rig.clock.advance(10 * FREE.relay_target_ns)
    rig.run()
    assert rig.socket.sequences() == list(range(1, 21))
    assert rig.lost() == (0, 0)


# ---- overwrite -----------------------------------------------------------------------------


def test_overwrite_delivers_what_is_old_marked_late():
    rig = Rig(TURBO)
    rig.publish()
    rig.clock.advance(TURBO.relay_target_ns + 1)
    rig.run()
    [frame] = rig.socket.frames()
    assert frame.late
    assert (rig.tally.late_queue, rig.lost()) == (1, (0, 0))


def test_overwrite_past_its_buffer_jumps_to_the_newest_block_with_all_that_belongs_to_it():
    rig = Rig(TURBO, room=0)
    for _ in range(TURBO.buffer_frames + 4):
        rig.publish()
    newest = b"n" * 32
    for kind in (Kind.HEADER, Kind.BLOCK, Kind.TIP):
        rig.publish(kind, hash=newest)
    rig.socket.room = None
    rig.run()
    frames = rig.socket.frames()
    assert [frame.kind for frame in frames] == [Kind.HEADER, Kind.BLOCK, Kind.TIP]
    assert {frame.hash for frame in frames} == {newest}
    assert rig.lost() == (0, TURBO.buffer_frames + 4)


def test_overwrite_gives_up_an_older_block_for_the_newest_when_a_write_is_past_its_deadline():
    rig = Rig(TURBO, room=100_000)
    rig.publish(Kind.BLOCK, BULKY)
    assert rig.run() is Turn.BLOCKED
    rig.publish(Kind.HEADER)
    rig.publish(Kind.HEADER)
    rig.clock.advance(TURBO.write_deadline_ns + 1)
    rig.socket.room = None
    rig.run()
    assert rig.socket.sequences() == [3]
    assert rig.socket.gaps == [("blocks", 2, 2), ("blocks", 1, 1)]
    assert (rig.lost(), rig.tally.aborted) == ((0, 2), 1)


def test_the_newest_block_is_delivered_however_late_and_says_so():
    rig = Rig(TURBO, room=100_000)
    rig.publish(Kind.BLOCK, BULKY)
    assert rig.run() is Turn.BLOCKED
    rig.clock.advance(1_000 * TURBO.write_deadline_ns)
    rig.socket.room = None
    rig.run()
    [frame] = rig.socket.frames()
    assert frame.late
    assert frame.payload == BULKY
    assert (rig.lost(), rig.tally.late_peer, rig.tally.sent) == ((0, 0), 1, 1)


def test_a_chunk_taken_at_once_but_not_in_time_was_late_by_us():
    rig = Rig(TURBO)
    taken = rig.socket.__call__

    def slowly(parts):
        rig.clock.advance(TURBO.write_deadline_ns + 1)
        return taken(parts)

    rig.delivery._send = slowly
    rig.publish(Kind.BLOCK, BULKY)
    rig.run()
    [frame] = rig.socket.frames()
    assert frame.late
    assert (rig.tally.late_queue, rig.tally.late_peer, rig.lost()) == (1, 0, (0, 0))


def test_a_small_newest_frame_stuck_half_way_is_marked_late_in_its_end():
    rig = Rig(TURBO, room=20)
    rig.publish()
    rig.run()
    rig.clock.advance(TURBO.write_deadline_ns + 1)
    rig.socket.room = None
    rig.run()
    [frame] = rig.socket.frames()
    assert frame.late
    assert (rig.tally.sent, rig.tally.late_peer) == (1, 1)


def test_a_jump_gives_up_every_older_block_that_is_open():
    rig = Rig(TURBO, room=0)
    rig.publish(Kind.BLOCK, BULKY)
    rig.publish(Kind.BLOCK, BULKY)
    rig.socket.room = 1_000
    rig.run()
    for _ in range(TURBO.buffer_frames + 1):
        rig.publish()
    rig.socket.room = None
    rig.run()
    assert rig.socket.sequences() == [TURBO.buffer_frames + 3]
    assert rig.socket.aborted == 2
    assert rig.tally.overwritten == TURBO.buffer_frames + 2


def test_overwrite_in_the_tx_ring_drops_the_oldest_until_it_is_within_the_buffer():
    rig = Rig(TURBO, room=0)
    for _ in range(TURBO.buffer_frames + 3):
        rig.publish(Kind.TX, b"t")
    rig.socket.room = None
    rig.run()
    sequences = rig.socket.sequences()
    assert (sequences[0], len(sequences)) == (4, TURBO.buffer_frames)
    assert rig.lost() == (0, 3)


def test_overwrite_keeps_a_slow_transaction_and_marks_it_late():
    rig = Rig(TURBO, room=0)
    rig.publish(Kind.TX, b"t")
    rig.run()
    rig.publish(Kind.TX, b"u")
    rig.clock.advance(TURBO.write_deadline_ns + 1)
    rig.socket.room = None
    rig.run()
    assert [frame.late for frame in rig.socket.frames()] == [True, False]
    assert rig.lost() == (0, 0)


# ---- the ring overwrites -------------------------------------------------------------------


def test_a_frame_overwritten_half_way_is_finished_and_aborted(policy):
    rig = Rig(policy, room=100_000)
    torn = rig.publish(Kind.BLOCK, BULKY)
    assert rig.run() is Turn.BLOCKED
    torn.overwrite()
    rig.publish(Kind.HEADER)
    rig.socket.room = None
    rig.run()
    assert rig.socket.sequences() == [2]
    assert rig.socket.gaps == [("blocks", 1, 1)]
    assert sum(rig.lost()) == rig.tally.aborted == 1


def test_a_frame_overwritten_after_its_last_chunk_but_before_its_end_is_aborted(policy):
    rig = Rig(policy)
    torn = rig.publish(Kind.BLOCK, BULKY)
    for _ in range(len(BULKY) // CHUNK_BYTES_MAX + 1):
        rig.delivery.turn()
    torn.overwrite()
    rig.run()
    assert (rig.socket.frames(), rig.socket.aborted) == ([], 1)


def test_a_frame_overwritten_before_its_first_byte_is_passed_over(policy):
    rig = Rig(policy)
    rig.publish(Kind.BLOCK, BULKY).overwrite()
    rig.publish(Kind.TIP)
    rig.run()
    assert rig.socket.sequences() == [2]
    assert (sum(rig.lost()), rig.tally.aborted) == (1, 0)


def test_a_small_frame_survives_its_slot_once_somebody_has_had_it(policy):
    rig = Rig(policy, room=0)
    frame = rig.publish()
    rig.run()
    frame.overwrite()
    rig.socket.room = None
    rig.run()
    assert rig.socket.sequences() == [1]


# ---- blocked for long ----------------------------------------------------------------------


def test_settling_counts_what_a_stuck_subscriber_will_not_get():
    rig = Rig(FREE, room=0)
    rig.publish()
    rig.run()
    for _ in range(3):
        rig.publish()
    rig.clock.advance(FREE.relay_target_ns + 1)
    rig.delivery.settle()
    rig.delivery.settle()
    assert rig.lost() == (4, 0)
    assert rig.socket.calls == 1


def test_settling_gives_a_stuck_block_up_for_a_newer_one_once():
    rig = Rig(TURBO, room=100_000)
    rig.publish(Kind.BLOCK, BULKY)
    rig.run()
    rig.clock.advance(TURBO.write_deadline_ns + 1)
    rig.delivery.settle()
    assert (rig.lost(), rig.tally.late_peer) == ((0, 0), 1)
    for _ in range(3):
        rig.publish(Kind.BLOCK, BULKY)
        rig.delivery.settle()
    assert (rig.lost(), rig.tally.aborted) == ((0, 3), 1)
    rig.socket.room = None
    rig.run()
    assert rig.socket.sequences() == [4]
    assert (rig.lost(), rig.tally.late_peer) == ((0, 3), 1)


def test_one_that_never_reads_keeps_the_newest_block_and_accounts_for_all_others():
    rig = Rig(TURBO, room=0)
    rig.publish()
    rig.run()
    for _ in range(3 * TURBO.buffer_frames):
        rig.publish()
        rig.clock.advance(TURBO.write_deadline_ns)
    rig.delivery.settle()
    assert rig.lost() == (0, 3 * TURBO.buffer_frames)
    rig.socket.room = None
    rig.run()
    assert rig.socket.sequences() == [3 * TURBO.buffer_frames + 1]


def test_our_own_message_waits_for_nothing_and_is_never_torn():
    rig = Rig(FREE, room=3)
    rig.delivery.send_idle(b"welcome")
    assert rig.delivery.blocked
    rig.publish()
    rig.socket.room = None
    rig.run()
    assert bytes(rig.socket.taken).startswith(b"welcome")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_happens_every_frame_is_sent_or_counted_lost_and_none_comes_torn(data):
    policy = data.draw(st.sampled_from([FREE, TURBO, TIERS["enterprise"]]))
    rig = Rig(policy, room=0)
    published = []
    for _ in range(data.draw(st.integers(1, 60))):
        step = data.draw(st.sampled_from(["publish", "overwrite", "room", "time", "settle"]))
        if step == "publish":
            kind = data.draw(st.sampled_from([Kind.HEADER, Kind.BLOCK, Kind.TIP, Kind.TX]))
            size = data.draw(st.sampled_from([0, 1, 80, 4_096, 4_097, 70_000, 140_000]))
            published.append(rig.publish(kind, bytes([len(published) % 256]) * size))
        elif step == "overwrite" and published:
            data.draw(st.sampled_from(published)).overwrite()
        elif step == "room":
            rig.socket.room = data.draw(st.sampled_from([0, 1, 50, 1_000, 70_000]))
            rig.run()
        elif step == "time":
            rig.clock.advance(data.draw(st.sampled_from([1, 10**5, 10**6, 10**8, 10**10])))
        else:
            rig.delivery.settle()
    rig.socket.room = None
    assert rig.run() is Turn.IDLE
    frames = rig.socket.frames()
    by_identity = {(f.kind >= Kind.TX, f.sequence): f for f in published}
    for frame in frames:
        sent = by_identity[frame.kind >= Kind.TX, frame.sequence]
        assert set(frame.payload) <= {published.index(sent) % 256}
    assert rig.tally.sent == len(frames)
    assert rig.tally.sent + sum(rig.lost()) == len(published)
    assert rig.socket.aborted == rig.tally.aborted
