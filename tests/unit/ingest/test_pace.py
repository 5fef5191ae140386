"""Time passes for ingest in milliseconds while something waits, and seldom while nothing does."""

from __future__ import annotations

import asyncio

from bitcoin_sprint.ingest.pace import BUSY_S, IDLE_S, Pace


async def _pause_s(pace: Pace, *, busy: bool) -> float:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await pace.pause(busy=busy)
    return loop.time() - begun


async def test_a_busy_pause_is_short() -> None:
    assert BUSY_S * 0.9 <= await _pause_s(Pace(), busy=True) < IDLE_S


async def test_an_idle_pause_is_long() -> None:
    assert await _pause_s(Pace(), busy=False) >= IDLE_S * 0.9


async def test_whoever_begins_to_wait_ends_an_idle_pause() -> None:
    pace = Pace()
    asyncio.get_running_loop().call_later(0.01, pace.hurry)
    assert await _pause_s(pace, busy=False) < IDLE_S / 2


async def test_a_hurry_of_before_does_not_shorten_a_later_pause() -> None:
    pace = Pace()
    pace.hurry()  # the tick that followed has seen to it
    assert await _pause_s(pace, busy=False) >= IDLE_S * 0.9
