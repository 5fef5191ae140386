"""Subscribers that do harm, and a relay without descriptors: the others are served on."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
import zmq
from engines import Engine, stream_address

from bitcoin_sprint.client import Subscriber
from bitcoin_sprint.control.status import read_snapshot
from bitcoin_sprint.frames import Kind

SPARE = 40
"""Descriptors that a starved relay may still take."""


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    name = f"subs{os.getpid()}-{abs(hash(request.node.name)) % 10**6}"
    with Engine(name, tier="turbo", **{"sim.interval": "100ms"}) as running:
        yield running.start().ready()
        assert "Traceback" not in running.log()


@pytest.fixture
def opened() -> Iterator[Callable[[int], socket.socket]]:
    """Makes connections that the test's end closes."""
    with contextlib.ExitStack() as held:

        def connect(port: int) -> socket.socket:
            return held.enter_context(socket.create_connection(("127.0.0.1", port), 5))

        yield connect


def port_of(engine: Engine, kind: str) -> int:
    return int(str(engine.keys[f"relay.tiers.turbo.{kind}_port"]))


def figures(engine: Engine) -> dict[str, int]:
    snapshot = read_snapshot(engine.instance, "relay-turbo")
    return snapshot["counters"] if snapshot else {}


def a_block_comes(engine: Engine) -> None:
    with Subscriber(stream_address(engine, "turbo"), tier="turbo") as subscriber:
        assert any(frame.kind == Kind.BLOCK for frame in subscriber)


def told(engine: Engine, text: str) -> list[str]:
    return [event["message"] for event in engine.events() if text in event["message"]]


def busy_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def test_peers_that_say_nothing_half_or_nonsense_and_go_take_nothing_from_others(
    engine: Engine, opened: Callable[[int], socket.socket]
) -> None:
    pid = engine.pid("relay-turbo")
    dice = random.Random(4)
    for _ in range(100):
        opened(port_of(engine, "stream"))  # says nothing
        opened(port_of(engine, "stream")).sendall(b"\x01")  # half a word
    for length in (1, 8, 64, 4096):
        opened(port_of(engine, "stream")).sendall(dice.randbytes(length))
        opened(port_of(engine, "zmq")).sendall(dice.randbytes(length))
    with contextlib.suppress(OSError):
        for _ in range(2_000):
            with socket.create_connection(("127.0.0.1", port_of(engine, "stream")), 5):
                pass
    a_block_comes(engine)
    engine.until(lambda: figures(engine)["subscribers_refused"] > 2_000)
    engine.until(lambda: figures(engine)["subscribers"] == 0)
    assert engine.pid("relay-turbo") == pid


def test_subscribers_that_never_read_cost_no_memory_and_delay_nobody(engine: Engine) -> None:
    relay = psutil.Process(engine.pid("relay-turbo"))
    with contextlib.ExitStack() as held:
        subscribers = [
            held.enter_context(Subscriber(stream_address(engine, "turbo"), tier="turbo"))
            for _ in range(20)
        ]
        for each in subscribers:
            next(iter(each))  # subscribed; from now on it reads nothing
        context = held.enter_context(zmq.Context())
        mute = held.enter_context(context.socket(zmq.SUB))
        mute.setsockopt(zmq.RCVHWM, 1)
        mute.subscribe(b"")
        mute.connect(f"tcp://127.0.0.1:{port_of(engine, 'zmq')}")
        a_block_comes(engine)
        before = relay.memory_info().rss
        seen = figures(engine)["frames_sent"]
        engine.until(lambda: figures(engine)["frames_sent"] > seen + 2_000)
        a_block_comes(engine)
        assert relay.memory_info().rss < before + (64 << 20)


@pytest.mark.parametrize("kind", ["stream", "zmq"])
def test_a_relay_out_of_descriptors_rests_serves_on_and_recovers(engine: Engine, kind: str) -> None:
    relay = psutil.Process(engine.pid("relay-turbo"))
    limits = resource.prlimit(relay.pid, resource.RLIMIT_NOFILE)
    with Subscriber(stream_address(engine, "turbo"), tier="turbo") as subscriber:
        frames = iter(subscriber)
        next(frames)
        used = relay.num_fds()
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (used + SPARE, limits[1]))
        crowd = []
        for _ in range(2 * SPARE):
            with contextlib.suppress(OSError):
                crowd.append(socket.create_connection(("127.0.0.1", port_of(engine, kind)), 0.2))
        engine.until(lambda: told(engine, "out of descriptors"))
        begun, busy = time.monotonic(), busy_s(relay)
        while time.monotonic() < begun + 2:
            next(frames)  # whoever is there is served on
        assert busy_s(relay) - busy < 0.5 * (time.monotonic() - begun)
        for each in crowd:
            each.close()
        engine.until(lambda: told(engine, "relay-turbo: well again"))
        a_block_comes(engine)
        with zmq.Context() as context, context.socket(zmq.SUB) as late:
            late.subscribe(b"hashblock")
            late.connect(f"tcp://127.0.0.1:{port_of(engine, 'zmq')}")
            assert late.poll(10_000)
    assert figures(engine)["descriptor_shortages"] >= 1
    assert len(told(engine, "out of descriptors")) <= 2
    assert engine.pid("relay-turbo") == relay.pid
