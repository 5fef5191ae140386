"""From a stream to the rings behind it, or on with the stream and a warning."""

import secrets

import msgspec
import pytest
from relay_rig import Rings, running_worker

from bitcoin_sprint.client import AsyncSubscriber, MemoryChannel, Subscriber
from bitcoin_sprint.frames import Kind


@pytest.fixture
def rings():
    rings = Rings()
    yield rings
    rings.close()


def test_a_subscriber_of_the_engines_host_goes_on_in_its_rings(rings):
    with running_worker(rings) as running, Subscriber(running.tcp).connect() as subscriber:
        channel = subscriber.memory_channel()
        with channel, channel.blocks.reader() as blocks, channel.tx.reader() as tx:
            sequence = rings.header(7)
            rings.publish(Kind.TX, b"x" * 60, hash=secrets.token_bytes(32))
            frame = blocks.wait(10)
            assert (frame.sequence, frame.height) == (sequence, 7)
            assert tx.wait(10).copy() == b"x" * 60
        assert subscriber.receive(10).height == 7, "the stream goes on beside it"


def test_where_none_is_offered_the_relay_goes_on_and_a_warning_says_so(rings, caplog):
    offering = running_worker(rings, memory_channel=False)
    with offering as running, Subscriber(running.tcp) as subscriber:
        assert subscriber.memory_channel() is None
        rings.header(8)
        assert subscriber.receive(10).height == 8
    (record,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert record.getMessage() == ("no memory channel is offered here: the standard relay goes on")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"memory_instance": "on-another-host"}, "on-another-host"),
        ({"memory_directory": "/nowhere"}, "/nowhere"),
        ({"session": 1}, "is another engine"),
        ({"memory_instance": "../main"}, "instance '../main'"),
        ({"memory_instance": "a\0b"}, "instance"),
    ],
)
def test_an_offer_that_leads_nowhere_is_a_warning(rings, caplog, changes, why):
    with running_worker(rings) as running, Subscriber(running.tcp).connect() as subscriber:
        welcome = subscriber.welcome
    if "session" in changes:
        changes = {"blocks": msgspec.structs.replace(welcome.blocks, session=1)}
    assert MemoryChannel.offered_by(msgspec.structs.replace(welcome, **changes)) is None
    (record,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert why in record.getMessage()
    assert record.getMessage().endswith("; the standard relay goes on")


async def test_it_is_there_for_asyncio_too(rings):
    with running_worker(rings) as running:
        async with AsyncSubscriber(running.tcp) as subscriber:
            with await subscriber.memory_channel() as channel:
                assert channel.blocks.session == rings.blocks.session
