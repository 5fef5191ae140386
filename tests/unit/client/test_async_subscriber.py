import asyncio
import secrets
import socket

import pytest
from relay_rig import Rings, patient, running_worker

from bitcoin_sprint.client import AsyncSubscriber, session
from bitcoin_sprint.errors import Disconnected, SubscriptionRefused
from bitcoin_sprint.frames import Kind

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


@pytest.fixture
def rings():
    rings = Rings()
    yield rings
    rings.close()


@pytest.fixture(autouse=True)
def _no_long_pauses(monkeypatch):
    monkeypatch.setattr(session, "_DELAY_MAX_S", 0.02)


@pytest.mark.parametrize("transport", ["tcp", "unix", "zmq"])
async def test_frames_arrive_over_every_transport(rings, tmp_path, transport):
    path = tmp_path / "turbo.sock"
    payload = secrets.token_bytes(200_000)
    with running_worker(rings, unix_path=path) as running:
        address = {"tcp": running.tcp, "unix": f"unix://{path}", "zmq": running.zmq}[transport]
        async with AsyncSubscriber(address) as subscriber:
            await subscriber.connect()
            if transport == "zmq":
                await asyncio.to_thread(running.wait_for, zmq_topics_wanted=7)
            rings.publish(Kind.BLOCK, payload, hash=bytes(31) + b"\x01", height=7)
            rings.publish(Kind.TX, b"raw")
            frames = {}
            async for frame in subscriber:
                frames[frame.kind] = frame
                if len(frames) == 2:
                    break
            assert frames[Kind.BLOCK].payload == payload
            assert frames[Kind.TX].payload == b"raw"
            assert subscriber.gaps == subscriber.aborted == 0


async def test_nothing_within_the_timeout_is_none(rings):
    with running_worker(rings) as running:
        async with AsyncSubscriber(running.tcp) as subscriber:
            await subscriber.connect()
            assert await subscriber.receive(0.02) is None
            rings.header(1)
            assert (await subscriber.receive(10)).height == 1


@pytest.mark.parametrize("transport", ["tcp", "zmq"])
async def test_a_cancelled_receive_loses_nothing(rings, transport):
    with running_worker(rings) as running:
        address = running.tcp if transport == "tcp" else running.zmq
        async with AsyncSubscriber(address) as subscriber:
            await subscriber.connect()
            if transport == "zmq":
                await asyncio.to_thread(running.wait_for, zmq_topics_wanted=7)
            heights = []
            for height in range(150):
                rings.header(height)
                received = asyncio.ensure_future(subscriber.receive())
                for _ in range(height % 5):
                    await asyncio.sleep(0)
                received.cancel()
                try:
                    heights.append((await received).height)
                except asyncio.CancelledError:
                    continue
            while len(heights) < 150:
                heights.append((await subscriber.receive(10)).height)
            assert heights == list(range(150))
            assert subscriber.gaps == 0


async def test_a_worker_that_restarts_is_found_again_and_nothing_is_lost(rings):
    gaps = []
    with running_worker(rings) as running:
        port = running.worker.stream_port
        subscriber = AsyncSubscriber(running.tcp, on_gap=lambda *gap: gaps.append(gap))
        await subscriber.connect()
        rings.header(1)
        assert (await subscriber.receive(10)).height == 1
    rings.header(2)
    with running_worker(rings, patient("turbo", stream_port=port)):
        rings.header(3)
        assert [(await subscriber.receive(10)).height for _ in range(2)] == [2, 3]
        assert gaps == []
        assert subscriber.connections == 2
    await subscriber.close()
    with pytest.raises(Disconnected):
        await subscriber.receive()


async def test_refusals_and_silence_are_told(rings):
    with running_worker(rings, patient("free")) as running:
        async with AsyncSubscriber(running.tcp, tier="turbo") as subscriber:
            with pytest.raises(SubscriptionRefused, match="serves free"):
                await subscriber.connect()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        async with AsyncSubscriber(address, connect_timeout=0.05) as subscriber:
            with pytest.raises(Disconnected, match="no answer"):
                await subscriber.connect()


async def test_without_reconnect_the_end_is_an_error(rings):
    with running_worker(rings) as running:
        subscriber = await AsyncSubscriber(running.tcp, reconnect=False).connect()
    with pytest.raises(Disconnected, match="the stream ended"):
        await subscriber.receive()
    await subscriber.close()


async def test_the_filter_and_the_past_are_asked_for_as_with_the_other(rings):
    rings.header(1)
    rings.publish(Kind.TIP, bytes(80))
    with running_worker(rings) as running:
        async with AsyncSubscriber(
            running.tcp, kinds=[Kind.TIP], start="oldest", name="desk"
        ) as subscriber:
            assert (await subscriber.receive(10)).kind == Kind.TIP
            assert subscriber.welcome.blocks.oldest == 2
