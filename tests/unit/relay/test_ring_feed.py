import select

import pytest
from relay_rig import Rings, unique_instance

from bitcoin_sprint.relay.ring_feed import RingFeed
from bitcoin_sprint.ring import Writer
from bitcoin_sprint.tiers import Lane
from bitcoin_sprint.transports.window import Window


@pytest.fixture
def rings():
    rings = Rings()
    yield rings
    rings.close()


def feed_of(rings, capacity=64):
    return RingFeed(rings.instance, "blocks", Window(Lane.BLOCKS, capacity))


def drain(feed):
    found = []
    while (frame := feed.poll()) is not None:
        found.append(feed.window.append(frame).sequence)
    return found


def test_a_ring_that_does_not_exist_yet_is_no_error():
    feed = RingFeed(unique_instance(), "blocks", Window(Lane.BLOCKS, 8))
    assert feed.try_attach() is False
    assert feed.poll() is None
    feed.hush()
    feed.detach()


def test_what_is_there_at_first_is_the_past(rings):
    for height in range(5):
        rings.header(height)
    feed = feed_of(rings)
    assert feed.try_attach()
    assert feed.window.last_sequence == 5
    assert drain(feed) == []
    rings.header()
    assert drain(feed) == [6]
    feed.detach()


def test_the_past_goes_back_no_further_than_the_window(rings):
    for height in range(20):
        rings.header(height)
    feed = feed_of(rings, capacity=8)
    feed.try_attach()
    channel = feed.window.channel(0)
    assert channel.entry(channel.tail).sequence == 13
    feed.detach()


def test_its_descriptor_wakes_when_frames_are_published(rings):
    feed = feed_of(rings)
    feed.try_attach()
    rings.header()
    assert select.select([feed.fileno()], [], [], 10)[0]
    feed.hush()
    assert not select.select([feed.fileno()], [], [], 0)[0]
    assert drain(feed) == [1]
    feed.detach()


def test_a_ring_given_up_is_let_go_and_of_the_fresh_one_everything_is_news(rings):
    feed = feed_of(rings)
    feed.try_attach()
    rings.header()
    assert drain(feed) == [1]
    session = feed.window.session
    rings.begin_anew()
    rings.header()
    assert drain(feed) == []
    assert not feed.attached
    assert feed.try_attach()
    assert drain(feed) == [1]
    assert feed.window.session != session
    feed.detach()


def test_a_writer_that_dies_and_its_successor_are_one_ring(rings):
    feed = feed_of(rings)
    feed.try_attach()
    rings.header()
    rings.blocks.close(unlink=False)
    rings.blocks = Writer.create(
        rings.instance, "blocks", slot_count=1_024, arena_bytes=16 << 20, network="regtest"
    )
    rings.header()
    found = drain(feed)
    if not feed.attached:
        assert feed.try_attach()
        found += drain(feed)
    assert len(found) == 2
    feed.detach()
