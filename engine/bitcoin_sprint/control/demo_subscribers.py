"""The demo's subscribers: one in every tier, over TCP, in one process of their own.

They are ordinary users of the client library. What they see goes to this process's counters in
shared memory, ``<tier>.<figure>``, where the demo's table reads it: drawing never delays them.
Latency runs from the frame's publish time to the moment the subscriber had the whole frame.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Final

import uvloop

from bitcoin_sprint.client import AsyncSubscriber, Frame
from bitcoin_sprint.config import Config
from bitcoin_sprint.frames import Kind
from bitcoin_sprint.metrics import Counters
from bitcoin_sprint.tiers import TierPolicy

FIGURES: Final = ("frames", "blocks", "headers", "txs", "lost")
"""``lost``: frames that the holes in the numbers stand for."""
_FIGURE_OF_KIND: Final = {Kind.BLOCK: "blocks", Kind.HEADER: "headers", Kind.TX: "txs"}
_HEARTBEAT_S: Final = 1.0


class Tally:
    """What one tier's subscriber counts."""

    def __init__(self, counters: Counters, tier: str) -> None:
        self._frames = counters[f"{tier}.frames"]
        self._lost = counters[f"{tier}.lost"]
        self._of_kind = {
            int(kind): counters[f"{tier}.{figure}"] for kind, figure in _FIGURE_OF_KIND.items()
        }
        self._latency = counters.histogram(f"{tier}.latency_ns")

    def frame(self, frame: Frame) -> None:
        """Count a frame that arrived."""
        self._latency.record(frame.received_ns - frame.publish_ns)
        self._frames.add()
        counter = self._of_kind.get(frame.kind)
        if counter is not None:
            counter.add()

    def gap(self, _ring: str, first: int, last: int) -> None:
        """Count a hole in the numbers: nothing is filtered, so each number was a frame for us."""
        self._lost.add(last - first + 1)


def main(config: Config, ready: Callable[[], None]) -> None:
    """Subscribe to every running tier until SIGTERM."""
    uvloop.run(_run(config, ready))


async def _run(config: Config, ready: Callable[[], None]) -> None:
    tiers = config.running_tiers
    counters = Counters.create(
        config.instance,
        "demo",
        [f"{tier.name}.{figure}" for tier in tiers for figure in FIGURES],
        [f"{tier.name}.latency_ns" for tier in tiers],
    )
    loop = asyncio.get_running_loop()
    tasks = [
        loop.create_task(_follow(config.relay.bind_host, tier, Tally(counters, tier.name)))
        for tier in tiers
    ]
    beating = loop.create_task(_beat(counters))
    done = asyncio.gather(*tasks)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, done.cancel)
    ready()
    try:
        await done
    except asyncio.CancelledError:
        return
    finally:
        beating.cancel()
        counters.close()


async def _follow(host: str, tier: TierPolicy, tally: Tally) -> None:
    address = f"tcp://{host}:{tier.stream_port}"
    async with AsyncSubscriber(address, tier=tier.name, on_gap=tally.gap) as subscriber:
        async for frame in subscriber:
            tally.frame(frame)


async def _beat(counters: Counters) -> None:
    while True:
        counters.heartbeat()
        await asyncio.sleep(_HEARTBEAT_S)
