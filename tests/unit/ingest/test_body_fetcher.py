"""Who is asked for a body: one at first, the others after a bound, nobody once it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from intake_rig import NODE, OTHER_PEER, PEER, THIRD_PEER, Rig, SilentFeed

from bitcoin_sprint.ingest.body_fetcher import IN_FLIGHT_PER_FEED_MAX, BodyFetcher
from bitcoin_sprint.ingest.feed import Source

A, B, C = (bytes([number]) * 32 for number in range(3))


class Desk:
    """A fetcher with silent feeds and a clock by hand."""

    def __init__(self, *sources: Source) -> None:
        self.now = 10.0
        self.fetcher = BodyFetcher(lambda: self.now, Rig._run_at_once)
        self.feeds = [SilentFeed(source) for source in sources]
        for feed in self.feeds:
            self.fetcher.add_feed(feed)

    def asked(self) -> list[Sequence[bytes]]:
        return [feed.asked for feed in self.feeds]

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.fetcher.tick()


def test_one_is_asked_at_first_two_more_soon_and_all_others_after_the_bound() -> None:
    desk = Desk(PEER, OTHER_PEER, THIRD_PEER, NODE)
    desk.fetcher.want([A])
    desk.advance(0.24)
    assert desk.asked() == [[A], [], [], []]
    desk.advance(0.02)
    assert desk.asked() == [[A], [A], [], []]
    desk.advance(0.48)
    assert desk.asked() == [[A], [A], [], []]
    desk.advance(0.02)
    assert desk.asked() == [[A], [A], [A], []]
    desk.advance(1.2)
    assert desk.asked() == [[A], [A], [A], []]
    desk.advance(0.1)
    assert desk.asked() == [[A], [A], [A], [A]]
    desk.advance(5)
    assert desk.asked() == [[A], [A], [A], [A]]
    desk.advance(6)
    assert desk.asked() == [[A, A], [A, A], [A, A], [A, A]]


def test_a_peer_that_books_a_new_block_and_keeps_it_delays_it_by_a_quarter_second() -> None:
    desk = Desk(PEER, OTHER_PEER)
    assert desk.fetcher.book([A], PEER) == [A]
    desk.advance(0.26)
    assert desk.asked() == [[], [A]]


def test_while_catching_up_nobody_is_asked_for_a_second_copy_before_the_bound() -> None:
    desk = Desk(PEER, OTHER_PEER)
    desk.fetcher.want([A, B, C])
    desk.advance(1.9)
    assert desk.asked() == [[A, C], [B]]
    desk.advance(0.2)
    assert desk.asked() == [[A, C, B], [B, A, C]]


def test_bodies_are_spread_over_the_feeds() -> None:
    desk = Desk(PEER, OTHER_PEER)
    desk.fetcher.want([A, B, C])
    assert desk.asked() == [[A, C], [B]]


def test_peers_are_asked_before_nodes_unless_the_nodes_word_needs_it() -> None:
    desk = Desk(NODE, PEER)
    desk.fetcher.want([A])
    assert desk.asked() == [[], [A]]
    desk.fetcher.demand(A, NODE)
    assert desk.asked() == [[A], [A]]
    desk.fetcher.demand(A, NODE)
    assert desk.asked() == [[A], [A]], "once is enough"


def test_what_a_source_books_it_asks_for_itself() -> None:
    desk = Desk(PEER, OTHER_PEER)
    assert desk.fetcher.book([A, B], PEER) == [A, B]
    assert desk.fetcher.book([A, B, C], OTHER_PEER) == [C]
    assert desk.asked() == [[], []]
    desk.advance(3)
    assert desk.asked() == [[C], [A, B]]


def test_a_source_that_cannot_be_asked_books_nothing_and_others_are_asked() -> None:
    desk = Desk(PEER, OTHER_PEER)
    desk.feeds[0].can_fetch = False
    assert desk.fetcher.book([A], PEER) == []
    assert A in desk.fetcher
    desk.advance(0.01)
    assert desk.asked() == [[], [A]]


def test_a_wrong_copy_or_a_refusal_leads_to_the_next_at_once() -> None:
    desk = Desk(PEER, OTHER_PEER, THIRD_PEER)
    desk.feeds[1].serves = False
    desk.fetcher.want([A])
    desk.fetcher.failed(A, PEER)
    assert desk.asked() == [[A], [A], [A]]


def test_the_only_feed_is_asked_again_after_the_bound() -> None:
    desk = Desk(PEER)
    desk.fetcher.want([A])
    desk.fetcher.failed(A, PEER)
    desk.advance(2.1)
    assert desk.asked() == [[A, A]]


def test_what_arrived_or_is_wanted_no_more_is_forgotten_but_not_what_a_node_needs() -> None:
    desk = Desk(PEER, NODE)
    desk.fetcher.want([A, B])
    desk.fetcher.demand(C, NODE)
    desk.fetcher.arrived(A)
    assert A not in desk.fetcher
    desk.fetcher.retain([])
    assert B not in desk.fetcher
    assert C in desk.fetcher
    desk.advance(61)
    assert C not in desk.fetcher, "for so long and no longer"


def test_a_feed_is_asked_for_so_many_at_a_time() -> None:
    desk = Desk(PEER)
    hashes = [number.to_bytes(32, "little") for number in range(1, 30)]
    assert desk.fetcher.book(hashes, PEER) == hashes[:IN_FLIGHT_PER_FEED_MAX]
    for hash in hashes[:4]:
        desk.fetcher.arrived(hash)
    desk.advance(0.01)
    assert desk.asked() == [hashes[IN_FLIGHT_PER_FEED_MAX : IN_FLIGHT_PER_FEED_MAX + 4]]


def test_nobody_able_at_first_is_made_up_for_later() -> None:
    desk = Desk(PEER)
    desk.feeds[0].can_fetch = False
    desk.fetcher.want([A])
    desk.advance(5)
    assert desk.asked() == [[]]
    desk.feeds[0].can_fetch = True
    desk.advance(0.01)
    assert desk.asked() == [[A]]


class BrokenFeed(SilentFeed):
    async def fetch_block(self, hash: bytes) -> bool:
        raise OSError(f"no line to ask for {hash.hex()}")


async def test_a_feed_that_breaks_is_passed_over_on_the_running_loop() -> None:
    fetcher = BodyFetcher()
    fetcher.add_feed(BrokenFeed(PEER))
    other = SilentFeed(OTHER_PEER)
    fetcher.add_feed(other)
    fetcher.want([A])
    async with asyncio.timeout(5):
        while not other.asked:
            await asyncio.sleep(0)
    assert other.asked == [A]
