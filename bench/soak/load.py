"""What readers and subscribers do to an engine under soak: ``python -m bench.soak.load``.

In a process of its own, so that what it takes is not judged. Every tier has a subscriber that
follows, by stream and by ZeroMQ, and one of each that never reads; others connect and go again and
again, with and without a word. On the rings, readers attach and detach, and one is so slow that it
is lapped. Reads its order (JSON) from standard input; when that closes, it writes what it did.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
import zmq

from bitcoin_sprint import AsyncSubscriber, Ring, Subscriber
from bitcoin_sprint.errors import SprintError

VISITORS = 3
"""Subscribers that come and go at a time, of streams; as many of ZeroMQ."""
_VISIT_FRAMES = 20
_VISIT_S = 0.3
_PAUSE_S = 0.05
_LAPPED_PAUSE_S = 2.0
_CORE_TOPICS = (b"hashblock", b"rawblock", b"hashtx")


class Load:
    """All of it; ``tiers``: stream and ZeroMQ port by name."""

    def __init__(self, instance: str, tiers: dict[str, list[int]]) -> None:
        self._instance = instance
        self._tiers = tiers
        self._stop = threading.Event()
        self.counts: Counter[str] = Counter()

    async def run(self, stopped: Awaitable[None]) -> None:
        """Load the engine until ``stopped`` is done."""
        threads = [
            threading.Thread(target=self._guarded, args=(work,))
            for work in (self._attach_again_and_again, self._read_slowly, self._follow_zmq)
        ]
        for thread in threads:
            thread.start()
        idle = await asyncio.to_thread(self._never_read)
        tasks = [
            *(asyncio.create_task(self._follow(tier)) for tier in self._tiers),
            *(asyncio.create_task(self._visit(number)) for number in range(VISITORS)),
        ]
        try:
            await stopped
        finally:
            self._stop.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for each in idle:
                each.close()
            for thread in threads:
                await asyncio.to_thread(thread.join)

    async def _follow(self, tier: str) -> None:
        """Read all that a tier's stream brings."""
        async with AsyncSubscriber(self._stream(tier), tier=tier) as subscriber:
            async for _ in subscriber:
                self.counts[f"followed.{tier}"] += 1

    async def _visit(self, number: int) -> None:
        """Connect, read a little and go, to one tier after the other."""
        for turn, tier in zip(itertools.count(number), itertools.cycle(self._tiers)):
            try:
                if turn % 4 == 0:
                    self._say_nothing(tier)
                else:
                    await self._read_a_little(tier)
                self.counts["visits"] += 1
            except (SprintError, OSError):
                self.counts["visits_failed"] += 1
            await asyncio.sleep(_PAUSE_S)

    async def _read_a_little(self, tier: str) -> None:
        async with AsyncSubscriber(self._stream(tier), tier=tier, reconnect=False) as subscriber:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_VISIT_S):
                    for _ in range(_VISIT_FRAMES):
                        await subscriber.receive()

    def _say_nothing(self, tier: str) -> None:
        """Connect and go without a word; every other time with what is no word."""
        with socket.create_connection(("127.0.0.1", self._tiers[tier][0]), timeout=2) as connection:
            if self.counts["visits"] % 2:
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")

    def _never_read(self) -> list[Any]:
        """Subscribers of every tier that are there and take nothing."""
        streams = [Subscriber(self._stream(tier), tier=tier) for tier in self._tiers]
        for stream in streams:
            stream.receive(timeout=10)
        socket = self._zmq_socket(*self._tiers)
        socket.setsockopt(zmq.RCVHWM, 1)
        return [*streams, socket]

    def _follow_zmq(self) -> None:
        """Read what every tier's ZeroMQ socket brings; others subscribe beside and go again."""
        with contextlib.closing(self._zmq_socket(*self._tiers)) as steady:
            visitors: list[zmq.Socket[bytes]] = []
            changed = 0.0
            while not self._stop.is_set():
                for _ in range(1_000):
                    if not steady.poll(20):
                        break
                    steady.recv_multipart()
                    self.counts["followed.zmq"] += 1
                if time.monotonic() - changed > _VISIT_S:
                    changed = time.monotonic()
                    visitors.append(self._zmq_socket(*self._tiers))
                    self.counts["zmq_visits"] += 1
                    if len(visitors) > VISITORS:
                        visitors.pop(0).close()
            for visitor in visitors:
                visitor.close()

    def _zmq_socket(self, *tiers: str) -> zmq.Socket[bytes]:
        made: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.RCVHWM, 1_000)
        for topic in _CORE_TOPICS:
            made.setsockopt(zmq.SUBSCRIBE, topic)
        for tier in tiers:
            made.connect(f"tcp://127.0.0.1:{self._tiers[tier][1]}")
        return made

    def _attach_again_and_again(self) -> None:
        for turn in itertools.count():
            if self._stop.is_set():
                return
            with Ring.attach(self._instance, ("tx", "blocks")[turn % 2]) as ring:
                reader = ring.reader(start="oldest", wait="block")
                for _ in range(100):
                    if reader.poll() is None:
                        break
                reader.wait(0.01)
                reader.close()
            self.counts["attached"] += 1
            self._stop.wait(_PAUSE_S)

    def _read_slowly(self) -> None:
        """Keep a place in the ring of transactions that is overwritten again and again."""
        with Ring.attach(self._instance, "tx") as ring:
            reader = ring.reader(start="oldest", wait="block")
            while not self._stop.wait(_LAPPED_PAUSE_S):
                reader.poll()
                self.counts["lapped_frames"] = reader.frames_lost
            reader.close()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            print(f"load: {work.__name__}: {error!r}", file=sys.stderr, flush=True)
            self.counts["failed"] += 1

    def _stream(self, tier: str) -> str:
        return f"tcp://127.0.0.1:{self._tiers[tier][0]}"


async def _main() -> None:
    order = json.loads(sys.stdin.readline())
    load = Load(order["instance"], order["tiers"])
    closed = asyncio.get_running_loop().run_in_executor(None, os.read, sys.stdin.fileno(), 1)
    print("ready", flush=True)

    async def stopped() -> None:
        await closed

    await load.run(stopped())
    print(json.dumps(load.counts), flush=True)


if __name__ == "__main__":
    uvloop.run(_main())
