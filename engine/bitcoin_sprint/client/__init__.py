"""Subscribe to an engine: over TCP, a Unix socket or ZeroMQ, with a loop or with asyncio."""

from bitcoin_sprint.client.async_subscriber import AsyncSubscriber
from bitcoin_sprint.client.frame import Frame
from bitcoin_sprint.client.memory_channel import MemoryChannel
from bitcoin_sprint.client.numbering import OnGap, OnSession
from bitcoin_sprint.client.subscriber import Subscriber

__all__ = ["AsyncSubscriber", "Frame", "MemoryChannel", "OnGap", "OnSession", "Subscriber"]
