import gc
import logging
import secrets
from pathlib import Path

import pytest
from relay_rig import Rings, eventually, patient, running_worker

from bitcoin_sprint.client import Subscriber
from bitcoin_sprint.errors import NotRunningError, WriterActive
from bitcoin_sprint.frames import Kind, Level
from bitcoin_sprint.metrics import CountersView
from bitcoin_sprint.relay.worker import Worker, WorkerOptions


@pytest.fixture
def rings():
    rings = Rings()
    yield rings
    rings.close()


@pytest.mark.parametrize("tier", ["free", "pro", "business", "turbo", "enterprise"])
def test_every_tier_relays_both_rings(rings, tier):
    with (
        running_worker(rings, patient(tier)) as running,
        Subscriber(running.tcp, tier=tier).connect() as subscriber,
    ):
        rings.header(1)
        rings.publish(Kind.BLOCK, bytes(100_000), hash=bytes([1]) * 32)
        rings.publish(Kind.TX, b"raw")
        kinds = {subscriber.receive(10).kind for _ in range(3)}
        assert kinds == {Kind.HEADER, Kind.BLOCK, Kind.TX}
        figures = running.wait_for(frames_sent=3, subscribers=1)
        assert figures["frames_missed"] == figures["frames_overwritten"] == figures["gaps"] == 0
        assert figures["bytes_sent"] > 100_000
        snapshot = CountersView.attach(rings.instance, f"relay-{tier}").snapshot()
        assert snapshot["histograms"]["relay_ns"].count == 3


def test_a_memory_optimised_worker_says_what_operators_grep_for(rings, caplog):
    caplog.set_level(logging.INFO)
    block = secrets.token_bytes(32)
    with (
        running_worker(rings, patient("turbo")) as running,
        Subscriber(running.tcp).connect() as subscriber,
    ):
        assert "⚡ Starting memory-optimized sprint with tight deadlines" in caplog.messages
        rings.publish(Kind.HEADER, bytes(80), hash=block)
        subscriber.receive(10)
        rings.publish(Kind.BLOCK, bytes(80), hash=block)
        subscriber.receive(10)
        running.wait_for(frames_sent=2)
    lines = [m for m in caplog.messages if m.startswith("Turbo relay successful: elapsed=")]
    assert len(lines) == 1
    assert lines[0].endswith(f" blockHash={block[::-1].hex()}")


def test_a_best_effort_worker_does_not_say_it(rings, caplog):
    caplog.set_level(logging.INFO)
    with (
        running_worker(rings, patient("pro")) as running,
        Subscriber(running.tcp).connect() as subscriber,
    ):
        rings.header()
        subscriber.receive(10)
    assert not any("urbo" in m or "⚡" in m for m in caplog.messages)


def test_a_block_that_only_zeromq_took_counts_as_relayed(rings, caplog):
    caplog.set_level(logging.INFO)
    with running_worker(rings) as running, Subscriber(running.zmq) as subscriber:
        running.wait_for(zmq_topics_wanted=7)
        rings.header()
        assert subscriber.receive(10).kind == Kind.HEADER
        eventually(lambda: "Turbo relay successful" in caplog.text)


def test_a_spinning_worker_relays_as_well(rings):
    with (
        running_worker(rings, patient("enterprise"), spin=True) as running,
        Subscriber(running.tcp).connect() as subscriber,
    ):
        rings.header(3)
        assert subscriber.receive(10).height == 3


def test_a_flood_of_transactions_loses_nothing_and_lets_blocks_through():
    rings = Rings(slot_count=8_192)
    policy = patient("enterprise")
    try:
        with (
            running_worker(rings, policy) as running,
            Subscriber(running.tcp).connect() as subscriber,
        ):
            for number in range(4_000):
                rings.publish(Kind.TX, number.to_bytes(4, "little"))
                if number % 1_000 == 0:
                    rings.header(number)
            frames = [subscriber.receive(10) for _ in range(4_004)]
            numbers = [int.from_bytes(f.payload, "little") for f in frames if f.kind == Kind.TX]
            assert numbers == list(range(4_000))
            assert [f.height for f in frames if f.kind == Kind.HEADER] == [0, 1_000, 2_000, 3_000]
            assert subscriber.gaps == 0
    finally:
        rings.close()


def test_what_the_ring_overwrote_before_the_worker_saw_it_is_a_gap_for_everybody():
    rings = Rings(slot_count=64, arena_bytes=1 << 20)
    gaps = []
    try:
        with running_worker(rings) as running:
            subscriber = Subscriber(running.tcp, on_gap=lambda *gap: gaps.append(gap)).connect()
            original, running.worker._take = running.worker._take, lambda *_: []
            for number in range(300):
                rings.header(number)
            running.worker._take = original
            rings.header(300)
            heights = []
            while not heights or heights[-1] != 300:
                heights.append(subscriber.receive(10).height)
            lost = running.wait_for(gaps=301 - len(heights))["gaps"]
            assert lost > 200
            assert gaps == [("blocks", 1, lost)]
            subscriber.close()
    finally:
        rings.close()


def test_a_fresh_session_is_followed_and_every_frame_of_it_delivered(rings):
    sessions, gaps = [], []
    with running_worker(rings) as running:
        subscriber = Subscriber(
            running.tcp,
            on_gap=lambda *gap: gaps.append(gap),
            on_session=lambda *change: sessions.append(change),
        ).connect()
        rings.header(1)
        first = subscriber.receive(10)
        rings.begin_anew()
        rings.header(2)
        second = subscriber.receive(10)
        assert (second.height, second.sequence) == (2, 1)
        assert second.session != first.session
        assert sessions == [("blocks", first.session, second.session)]
        assert gaps == []
        rings.publish(Kind.TX, b"raw")
        assert subscriber.receive(10).kind == Kind.TX
        subscriber.close()


def test_without_rings_a_worker_does_not_attach():
    worker = Worker(
        patient("free"),
        WorkerOptions(instance="relaytest-none", network="regtest", level=Level.MERKLE),
    )
    try:
        assert worker.attach() is False
    finally:
        worker.close()
        worker.close()


def test_a_tier_has_one_worker_an_instance(rings):
    with running_worker(rings), pytest.raises(WriterActive), running_worker(rings):
        pass


def test_nothing_is_left_behind(rings):
    def serve():
        with running_worker(rings) as running, Subscriber(running.tcp).connect() as subscriber:
            rings.header()
            subscriber.receive(10)

    def descriptors():
        gc.collect()  # a mapping lives as long as a frame of it does
        return len(list(Path("/proc/self/fd").iterdir()))

    serve()  # what a process opens once, for life
    before = descriptors()
    serve()
    assert descriptors() <= before
    with pytest.raises(NotRunningError):
        CountersView.attach(rings.instance, "relay-turbo")


def test_relaying_makes_no_garbage_cycles(rings):
    """Collecting is off while a hot worker serves: what only a collection frees would pile up."""
    with (
        running_worker(rings, patient("turbo")) as running,
        Subscriber(running.tcp).connect() as subscriber,
        Subscriber(running.zmq) as by_zmq,
    ):
        running.wait_for(zmq_topics_wanted=7)

        def relay(count: int) -> None:
            for number in range(count):
                rings.header(number)
                rings.publish(Kind.BLOCK, bytes(1000), hash=bytes([number]) * 32)
                rings.publish(Kind.TX, b"raw")
                for _ in range(3):
                    assert subscriber.receive(10) is not None
                    assert by_zmq.receive(10) is not None

        relay(5)
        gc.disable()
        try:
            gc.collect()
            relay(100)
            assert gc.collect() == 0
        finally:
            gc.enable()


def test_a_running_worker_takes_other_values_and_its_subscribers_lose_nothing(rings):
    with (
        running_worker(rings, patient("turbo", buffer_frames=16)) as running,
        Subscriber(running.tcp).connect() as subscriber,
    ):
        rings.header(1)
        assert subscriber.receive(10).height == 1
        running.worker.set_policy(patient("turbo", buffer_frames=64))
        running.wait_for(buffer_frames=64)
        for height in range(2, 60):  # more than were indexed before
            rings.header(height)
        assert [subscriber.receive(10).height for _ in range(2, 60)] == list(range(2, 60))
        # And subscribers that come now start as far back as the new buffer lets them.
        with Subscriber(running.tcp, start="oldest").connect() as late:
            assert late.receive(10).height == 1


def test_a_new_write_deadline_holds_for_who_is_subscribed_already(rings):
    with (
        running_worker(rings, patient("free")) as running,
        Subscriber(running.tcp).connect() as subscriber,
    ):
        rings.header(1)
        assert subscriber.receive(10).height == 1
        running.worker.set_policy(patient("free", relay_target_ns=0, buffer_frames=100))
        running.wait_for(buffer_frames=100)
        rings.header(2)  # older than no time at all when it is looked at: skipped
        running.wait_for(frames_missed=1)
