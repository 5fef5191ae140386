import logging

import pytest
from fake_frames import FakeFrame

from bitcoin_sprint.frames import Kind
from bitcoin_sprint.relay.block_log import BlockLog, readable_duration
from bitcoin_sprint.transports.window import Entry

HASH = bytes(31) + b"\xab"


def entry(kind, block_hash=HASH):
    return Entry(FakeFrame(1, kind, hash=block_hash))


def test_a_block_is_logged_once_with_its_slowest_subscriber_of_the_turn(caplog):
    caplog.set_level(logging.INFO)
    log = BlockLog()
    log.note(entry(Kind.HEADER), 90_000)
    log.note(entry(Kind.HEADER), 245_999)
    log.note(entry(Kind.TIP, bytes(32)), 1)
    log.say()
    log.note(entry(Kind.BLOCK), 9_000_000)
    log.say()
    expected = f"Turbo relay successful: elapsed=245µs blockHash=ab{'00' * 31}"
    assert caplog.messages == [expected]


def test_only_so_many_hashes_are_remembered(caplog):
    caplog.set_level(logging.INFO)
    log = BlockLog()
    for number in range(300):
        log.note(entry(Kind.HEADER, number.to_bytes(32, "big")), 1_000)
        log.say()
    log.note(entry(Kind.HEADER, bytes(32)), 1_000)
    log.say()
    assert len(caplog.messages) == 301


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(999, "0µs"), (245_000, "245µs"), (1_204_999, "1.204ms"), (2_500_000_000, "2.5s")],
)
def test_durations_read_as_people_write_them(nanoseconds, text):
    assert readable_duration(nanoseconds) == text
