"""A plain P2P client for tests: connects, shakes hands, sends what it is told, reads in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeVar

from bitcoin_sprint.chains import Network
from bitcoin_sprint.ingest import p2p_messages as p2p
from bitcoin_sprint.ingest.p2p_fields import NetworkAddress
from bitcoin_sprint.ingest.p2p_framing import MessageHeader, checksum

Expected = TypeVar("Expected", bound=p2p.Message)


class P2PClient:
    """One connection to a node on loopback. ``async with P2PClient(network, port) as client``."""

    def __init__(
        self,
        network: Network,
        port: int,
        *,
        greet_with: Sequence[p2p.Message] = (p2p.WtxidRelay(),),
        wants_headers: bool = True,
        seconds: float = 30.0,
    ) -> None:
        self._network = network
        self._port = port
        self._greet_with = greet_with
        self._wants_headers = wants_headers
        self._seconds = seconds
        self.version: p2p.Version | None = None

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self._port, limit=1 << 23
        )
        self.send(own_version(), *self._greet_with)
        self.version = await self.expect(p2p.Version)
        self.send(p2p.Verack())
        await self.expect(p2p.Verack)
        if self._wants_headers:
            self.send(p2p.SendHeaders())
        # A ping answered says that all before it was read.
        await self.settle()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.writer.close()

    def send(self, *messages: p2p.Message) -> None:
        for message in messages:
            self.writer.write(p2p.pack_message(self._network.magic, message))

    async def read(self) -> p2p.Message | None:
        """The next message, None for one that is not known. EOFError at the stream's end."""
        head = await self.reader.readexactly(24)
        header = MessageHeader.decode(head)
        assert header.magic == self._network.magic
        payload = await self.reader.readexactly(header.length)
        assert checksum(payload) == header.checksum
        return p2p.decode_message(header.command, payload)

    async def expect(self, kind: type[Expected]) -> Expected:
        """The next message of this kind; others before it are passed over."""
        async with asyncio.timeout(self._seconds):
            while True:
                message = await self.read()
                if isinstance(message, kind):
                    return message

    async def settle(self) -> list[p2p.Message | None]:
        """Everything that the node sent until it had read all that was sent to it."""
        nonce = time.time_ns()
        self.send(p2p.Ping(nonce))
        seen: list[p2p.Message | None] = []
        async with asyncio.timeout(self._seconds):
            while (message := await self.read()) != p2p.Pong(nonce):
                seen.append(message)
        return seen

    async def headers(self, locator: Sequence[bytes], stop: bytes = bytes(32)) -> list[bytes]:
        self.send(p2p.GetHeaders(locator, stop))
        return list((await self.expect(p2p.Headers)).headers)

    async def blocks(self, hashes: Sequence[bytes]) -> list[bytes]:
        """Raw blocks, asked for in one message."""
        self.send(p2p.GetData([p2p.InvItem(p2p.InvType.WITNESS_BLOCK, each) for each in hashes]))
        return [bytes((await self.expect(p2p.Block)).raw) for _ in hashes]


def own_version() -> p2p.Version:
    return p2p.Version(
        version=p2p.PROTOCOL_VERSION,
        services=p2p.Services.NONE,
        timestamp=int(time.time()),
        receiver=NetworkAddress(),
        sender=NetworkAddress(),
        nonce=time.time_ns(),
        user_agent="/test/",
        start_height=0,
    )
