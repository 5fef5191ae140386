"""One peer leads while headers are caught up with; the others are asked when it is done."""

from __future__ import annotations

from bitcoin_sprint.ingest.p2p_headers import HeaderLead


class Peer:
    def __init__(self) -> None:
        self.asked = 0

    def ask_headers(self) -> None:
        self.asked += 1


def test_the_first_that_has_more_leads() -> None:
    lead, first, second = HeaderLead(), Peer(), Peer()
    assert lead.may_continue(first)
    assert not lead.may_continue(second)
    assert lead.may_continue(first)


def test_those_that_waited_are_asked_once_when_the_leader_is_done() -> None:
    lead, first, second, third = HeaderLead(), Peer(), Peer(), Peer()
    for peer in (first, second, third, second):
        lead.may_continue(peer)
    lead.give_up(first)
    assert (first.asked, second.asked, third.asked) == (0, 1, 1)
    assert lead.may_continue(third)
    assert not lead.may_continue(second)


def test_one_that_left_while_it_waited_is_not_asked() -> None:
    lead, first, second = HeaderLead(), Peer(), Peer()
    lead.may_continue(first)
    lead.may_continue(second)
    lead.give_up(second)
    lead.give_up(first)
    assert second.asked == 0


def test_giving_up_without_the_lead_changes_nothing() -> None:
    lead, first, second = HeaderLead(), Peer(), Peer()
    lead.may_continue(first)
    lead.give_up(second)
    assert not lead.may_continue(second)
