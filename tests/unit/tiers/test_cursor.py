import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitcoin_sprint.tiers import TIERS, Action, Cause, Cursor, Delivery, Lane, Situation
from bitcoin_sprint.tiers.cursor import ACTIONS, Tally, cause_of, situation_of

TURBO = TIERS["turbo"]
FREE = TIERS["free"]


def cursor(policy=TURBO, lane=Lane.BLOCKS, *, start=0, joined=0):
    return Cursor(policy, lane, start=start, joined=joined, tally=Tally())


def judge(place, *, head, newest=None, age_ns=0, write_ns=0, whole=True):
    newest = head if newest is None else newest
    return place.judge(head, newest, age_ns=age_ns, write_ns=write_ns, whole=whole)


def test_the_table_names_an_action_for_every_delivery_lane_and_situation():
    assert set(ACTIONS) == set(itertools.product(Delivery, Lane, Situation))


def test_the_table_is_the_paragraph_under_the_tiers():
    best, over = Delivery.BEST_EFFORT, Delivery.OVERWRITE
    for lane in Lane:
        assert ACTIONS[best, lane, Situation.AGED] is Action.SKIP
        assert ACTIONS[best, lane, Situation.WRITE_PAST_DEADLINE] is Action.SKIP
        assert ACTIONS[over, lane, Situation.AGED] is Action.DELIVER_LATE
        for delivery in Delivery:
            assert ACTIONS[delivery, lane, Situation.ON_TIME] is Action.DELIVER
    assert ACTIONS[over, Lane.BLOCKS, Situation.PAST_BUFFER] is Action.JUMP
    assert ACTIONS[over, Lane.BLOCKS, Situation.WRITE_PAST_DEADLINE] is Action.JUMP
    assert ACTIONS[over, Lane.TX, Situation.PAST_BUFFER] is Action.DROP_OLDEST


@pytest.mark.parametrize("policy", TIERS.values(), ids=list(TIERS))
def test_each_bound_still_holds_at_its_value_and_is_past_one_beyond(policy):
    def at(**what):
        frame = {"age_ns": 0, "write_ns": 0, "lag": 1, "live": True, "whole": True}
        return situation_of(policy, **{**frame, **what})

    assert at(age_ns=policy.relay_target_ns) is Situation.ON_TIME
    assert at(age_ns=policy.relay_target_ns + 1) is Situation.AGED
    assert at(write_ns=policy.write_deadline_ns) is Situation.ON_TIME
    assert at(write_ns=policy.write_deadline_ns + 1) is Situation.WRITE_PAST_DEADLINE
    assert at(lag=policy.buffer_frames) is Situation.ON_TIME
    assert at(lag=policy.buffer_frames + 1) is Situation.PAST_BUFFER
    assert at(whole=False, lag=policy.buffer_frames + 1) is Situation.LAPPED


def test_frames_out_of_the_past_that_were_asked_for_are_not_late_but_still_have_a_write_deadline():
    place = cursor(FREE, start=0, joined=400)
    assert judge(place, head=2_000, age_ns=10**12) is Action.DELIVER
    assert judge(place, head=2_000, write_ns=FREE.write_deadline_ns + 1) is Action.SKIP


def test_best_effort_skips_a_frame_that_aged_and_counts_it_as_missed():
    place = cursor(FREE)
    action = judge(place, head=3, age_ns=FREE.relay_target_ns + 1)
    place.apply(action, 3, 3)
    assert (action, place.next) == (Action.SKIP, 1)
    assert (place.tally.missed, place.tally.overwritten) == (1, 0)


@pytest.mark.parametrize("lane", Lane)
def test_best_effort_past_its_buffer_drops_the_oldest_until_it_is_within_again(lane):
    place = cursor(FREE, lane)
    head = FREE.buffer_frames + 7
    action = judge(place, head=head)
    place.apply(action, head, 3)
    assert (action, place.next, place.tally.missed) == (Action.DROP_OLDEST, 7, 7)
    assert judge(place, head=head) is Action.DELIVER


def test_overwrite_delivers_a_frame_that_aged_marked_late():
    place = cursor()
    assert judge(place, head=1, age_ns=TURBO.relay_target_ns + 1) is Action.DELIVER_LATE


@pytest.mark.parametrize(
    ("head", "write_ns"), [(TURBO.buffer_frames + 1, 0), (60, TURBO.write_deadline_ns + 1)]
)
def test_overwrite_past_buffer_or_deadline_jumps_to_the_newest_block(head, write_ns):
    place = cursor()
    action = judge(place, head=head, newest=50, write_ns=write_ns)
    place.apply(action, head, 50)
    assert (action, place.next) == (Action.JUMP, 50)
    assert (place.tally.missed, place.tally.overwritten) == (0, 50)


@pytest.mark.parametrize(
    ("head", "write_ns"), [(TURBO.buffer_frames + 60, 0), (60, TURBO.write_deadline_ns + 1)]
)
def test_the_newest_block_is_always_delivered_marked_late(head, write_ns):
    place = cursor(start=50)
    assert judge(place, head=head, newest=50, write_ns=write_ns) is Action.DELIVER_LATE
    assert place.judge_begun(50, 50, write_ns=TURBO.write_deadline_ns + 1) is Action.DELIVER_LATE


def test_a_begun_frame_older_than_the_newest_block_is_given_up_for_it():
    place = cursor(start=41)
    late = TURBO.write_deadline_ns + 1
    assert place.judge_begun(40, 50, write_ns=late) is Action.JUMP
    assert place.judge_begun(40, 50, write_ns=late - 1) is Action.DELIVER
    assert cursor(FREE).judge_begun(40, 50, write_ns=FREE.write_deadline_ns + 1) is Action.SKIP


def test_overwrite_in_the_tx_ring_drops_the_oldest_until_it_is_within_the_buffer_again():
    place = cursor(lane=Lane.TX)
    head = TURBO.buffer_frames + 5
    action = judge(place, head=head)
    place.apply(action, head, head)
    assert (action, place.next, place.tally.overwritten) == (Action.DROP_OLDEST, 5, 5)
    late = judge(place, head=head, write_ns=TURBO.write_deadline_ns + 1)
    assert late is Action.DELIVER_LATE


@pytest.mark.parametrize("policy", TIERS.values(), ids=list(TIERS))
@pytest.mark.parametrize("lane", Lane)
def test_what_the_ring_overwrote_is_skipped_and_counted_under_the_deliverys_name(policy, lane):
    place = cursor(policy, lane)
    action = judge(place, head=1, newest=0, whole=False)
    place.apply(action, 1, 0)
    lost = (place.tally.missed, place.tally.overwritten)
    assert (action, place.next) == (Action.SKIP, 1)
    assert lost == ((0, 1) if policy.delivery is Delivery.OVERWRITE else (1, 0))


@given(
    policy=st.sampled_from(list(TIERS.values())),
    lane=st.sampled_from(Lane),
    start=st.integers(0, 10_000),
    behind=st.integers(1, 10_000),
    newest_back=st.integers(0, 10_000),
    age_ns=st.integers(0, 10**10),
    write_ns=st.integers(0, 10**10),
    whole=st.booleans(),
)
def test_every_judgement_makes_progress_and_accounts_for_every_frame(
    policy, lane, start, behind, newest_back, age_ns, write_ns, whole
):
    place = cursor(policy, lane, start=start)
    head = start + behind
    newest = max(0, head - newest_back)
    action = judge(place, head=head, newest=newest, age_ns=age_ns, write_ns=write_ns, whole=whole)
    place.apply(action, head, newest)
    moved = place.next - start
    assert moved == place.tally.missed + place.tally.overwritten
    assert place.next <= head
    assert moved > 0 or action in (Action.DELIVER, Action.DELIVER_LATE)
    if policy.delivery is Delivery.OVERWRITE and whole and start <= newest:
        assert lane is Lane.TX or place.next <= newest


def test_lateness_is_the_peers_if_it_was_congested_when_the_frame_was_due_else_ours():
    due = 1_000 + TURBO.relay_target_ns
    assert cause_of(TURBO, 1_000, 0) is Cause.QUEUE
    assert cause_of(TURBO, 1_000, due) is Cause.PEER
    assert cause_of(TURBO, 1_000, due + 1) is Cause.QUEUE


def test_a_tally_adds_up():
    one, two = Tally(), Tally()
    one.sent, two.sent, two.bytes = 3, 4, 9
    two.late(Cause.PEER)
    two.late(Cause.QUEUE)
    one.add(two)
    assert (one.sent, one.bytes, one.late_peer, one.late_queue) == (7, 9, 1, 1)
