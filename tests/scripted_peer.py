"""A peer on loopback that does what a test says, right or wrong.

A script is a coroutine that gets a ``Conversation`` for each connection that comes in; when it
returns, the connection stays open until the other side or the test ends it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar

import msgspec

from bitcoin_sprint.chains import Network
from bitcoin_sprint.ingest import p2p_messages as p2p
from bitcoin_sprint.ingest.p2p_fields import NetworkAddress
from bitcoin_sprint.ingest.p2p_framing import MessageHeader, checksum

Kind = TypeVar("Kind", bound=p2p.Message)


class Conversation:
    """One connection, from the peer's side."""

    def __init__(
        self, network: Network, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.network = network
        self.reader = reader
        self.writer = writer
        self.version: p2p.Version | None = None
        self.heard: list[p2p.Message] = []

    async def receive(self) -> p2p.Message:
        """The next message; pings are answered and passed over. Raises at the stream's end."""
        while True:
            header = MessageHeader.decode(await self.reader.readexactly(24))
            assert header.magic == self.network.magic
            payload = await self.reader.readexactly(header.length)
            assert header.checksum == checksum(payload)
            message = p2p.decode_message(header.command, payload)
            assert message is not None, header
            self.heard.append(message)
            if not isinstance(message, p2p.Ping):
                return message
            self.send(p2p.Pong(message.nonce))

    async def expect(self, kind: type[Kind]) -> Kind:
        """The next message of a kind; others are passed over."""
        while True:
            message = await self.receive()
            if isinstance(message, kind):
                return message

    async def listen(self) -> None:
        """Answer pings until the other side hangs up."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await self.receive()

    def send(self, *messages: p2p.Message) -> None:
        for message in messages:
            self.writer.write(p2p.pack_message(self.network.magic, message))

    def send_bytes(self, data: bytes) -> None:
        self.writer.write(data)

    def own_version(self, **changes: Any) -> p2p.Version:
        """What a good peer says first, but for ``changes``."""
        version = p2p.Version(
            version=70016,
            services=0b1001,
            timestamp=int(time.time()),
            receiver=NetworkAddress(),
            sender=NetworkAddress(),
            nonce=1,
            user_agent="/scripted:1/",
            start_height=0,
        )
        return msgspec.structs.replace(version, **changes)

    async def greet(self, *, wtxid_relay: bool = True, **changes: Any) -> None:
        """The handshake, up to and with their ``verack``."""
        self.version = await self.expect(p2p.Version)
        self.send(self.own_version(**changes))
        if wtxid_relay:
            self.send(p2p.WtxidRelay())
        self.send(p2p.Verack())
        await self.expect(p2p.Verack)

    async def serve_headers(self, headers: Sequence[bytes]) -> None:
        """Answer the next ``getheaders``."""
        await self.expect(p2p.GetHeaders)
        self.send(p2p.Headers(headers))


Script = Callable[[Conversation], Awaitable[None]]


class ScriptedPeer:
    """Listens on a free loopback port as long as the context lasts."""

    def __init__(self, network: Network, script: Script, host: str = "127.0.0.1") -> None:
        self._network = network
        self._script = script
        self._host = host
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.conversations: list[Conversation] = []
        self.failures: list[BaseException] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._converse, self._host, 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for conversation in self.conversations:
            conversation.writer.transport.abort()
        await self._server.wait_closed()
        if self.failures:
            raise self.failures[0]

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def address(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self.port}"

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = Conversation(self._network, reader, writer)
        self.conversations.append(conversation)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._script(conversation)
            await conversation.listen()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the other side hung up, as hostile peers make it do
        except RuntimeError as error:
            if "closed" not in str(error):  # uvloop's word for writing after that
                self.failures.append(error)
        except BaseException as error:
            self.failures.append(error)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)
