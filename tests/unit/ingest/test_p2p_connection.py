"""One connection over real sockets, its deadlines by a clock that the test holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import pytest
from scripted_peer import Conversation, ScriptedPeer

from bitcoin_sprint.chains import network
from bitcoin_sprint.ingest import p2p_messages as p2p
from bitcoin_sprint.ingest.feed import Stamps
from bitcoin_sprint.ingest.p2p_causes import Cause
from bitcoin_sprint.ingest.p2p_connection import Connection, ConnectionOptions
from bitcoin_sprint.ingest.p2p_feed import connection_options
from bitcoin_sprint.ingest.p2p_framing import MessageHeader, pack_frame
from bitcoin_sprint.ingest.p2p_messages import Message

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

REGTEST = network("regtest")
MAGIC = REGTEST.magic


class Owner:
    """Keeps what a connection says and lets the test wait for it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[tuple[Cause, str]] = loop.create_future()
        self.messages: asyncio.Queue[tuple[Message, Stamps]] = asyncio.Queue()
        self.heads: list[bytes] = []
        self.bad_blocks = 0

    def on_ready(self) -> None:
        self.ready.set_result(None)

    def on_message(self, message: Message, stamps: Stamps) -> None:
        if isinstance(message, p2p.Transaction):
            message = p2p.Transaction(bytes(message.raw))
        self.messages.put_nowait((message, stamps))

    def on_block_head(self, header: bytes, stamps: Stamps) -> bool:
        assert stamps.first_byte_ns > 0
        self.heads.append(header)
        return True

    def on_bad_block_checksum(self) -> None:
        self.bad_blocks += 1

    def on_closed(self, cause: Cause, detail: str) -> None:
        self.closed.set_result((cause, detail))

    async def cause(self) -> Cause:
        return (await asyncio.wait_for(self.closed, 10))[0]


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Line:
    """A connection to a scripted peer."""

    def __init__(
        self, peer: ScriptedPeer, connection: Connection, owner: Owner, clock: Clock
    ) -> None:
        self.peer = peer
        self.connection = connection
        self.owner = owner
        self.clock = clock

    async def ready(self) -> None:
        await asyncio.wait_for(self.owner.ready, 10)

    async def message(self) -> Message:
        return (await asyncio.wait_for(self.owner.messages.get(), 10))[0]

    def wait(self, seconds: float) -> None:
        """Let the clock go on and the connection look at it."""
        self.clock.now += seconds
        self.connection.check()


OPTIONS = connection_options(REGTEST)


@asynccontextmanager
async def line_to(
    script: Callable[[Conversation], Awaitable[None]],
    options: ConnectionOptions = OPTIONS,
    *,
    own_nonces: frozenset[int] = frozenset(),
    host: str = "127.0.0.1",
) -> AsyncIterator[Line]:
    owner, clock = Owner(), Clock()
    connection = Connection(options, owner, own_nonces, clock=clock)
    async with ScriptedPeer(REGTEST, script, host) as peer:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: connection, host, peer.port)
        try:
            yield Line(peer, connection, owner, clock)
        finally:
            connection.close(Cause.CLOSED)


async def greet(peer: Conversation) -> None:
    await peer.greet()


async def test_the_handshake_says_who_we_are_and_what_we_want() -> None:
    async with line_to(greet) as line:
        await line.ready()
        assert line.connection.state == "ready"
        assert line.connection.wtxid_relay
        peer_version = line.connection.peer_version
        assert peer_version is not None
        assert peer_version.user_agent == "/scripted:1/"


async def test_our_version_offers_no_services_and_asks_for_transactions() -> None:
    async with line_to(greet) as line:
        await line.ready()
        version = line.peer.conversations[0].version
    assert version is not None
    assert version.services == 0
    assert version.relay
    assert version.version == 70016
    assert version.user_agent.startswith("/bitcoin-sprint:")
    assert version.receiver.host == "127.0.0.1"


async def test_peers_on_ipv6_are_spoken_to() -> None:
    async with line_to(greet, host="::1") as line:
        await line.ready()


async def test_an_old_peer_gets_no_wtxidrelay() -> None:
    async def script(peer: Conversation) -> None:
        await peer.greet(wtxid_relay=False, version=70015)
        assert not any(isinstance(message, p2p.WtxidRelay) for message in peer.heard)
        peer.send(p2p.FeeFilter(1))

    async with line_to(script) as line:
        await line.ready()
        assert not line.connection.wtxid_relay
        assert isinstance(await line.message(), p2p.FeeFilter)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"version": 70001}, Cause.OLD_PROTOCOL),
        ({"services": 0b0001}, Cause.MISSING_SERVICES),
        ({"services": 0b1000}, Cause.MISSING_SERVICES),
        ({"nonce": 7}, Cause.SELF),
    ],
)
async def test_an_unfit_peer_is_left(changes: dict[str, Any], cause: Cause) -> None:
    async def script(peer: Conversation) -> None:
        await peer.greet(**changes)

    async with line_to(script, own_nonces=frozenset({7})) as line:
        assert await line.owner.cause() is cause
        assert cause.is_unfit
        assert not cause.is_lie


async def test_a_connection_to_ourselves_is_known_by_its_nonce() -> None:
    async def script(peer: Conversation) -> None:
        peer.send(await peer.expect(p2p.Version))

    async with line_to(script) as line:
        assert await line.owner.cause() is Cause.SELF


async def test_a_peer_that_never_answers_the_handshake_is_left_after_its_bound() -> None:
    async def script(peer: Conversation) -> None:
        await peer.expect(p2p.Version)

    async with line_to(script) as line:
        line.wait(OPTIONS.handshake_s)
        assert line.connection.state == "handshake"
        line.wait(0.1)
        assert await line.owner.cause() is Cause.HANDSHAKE_TIMEOUT


@pytest.mark.parametrize("first", ["verack", "version-twice"])
async def test_a_handshake_in_the_wrong_order_is_a_fault(first: str) -> None:
    async def script(peer: Conversation) -> None:
        if first == "verack":
            peer.send(p2p.Verack())
        else:
            peer.send(peer.own_version(), peer.own_version())

    async with line_to(script) as line:
        assert await line.owner.cause() is Cause.MALFORMED


async def test_messages_before_the_handshake_are_not_heard() -> None:
    async def script(peer: Conversation) -> None:
        peer.send(p2p.Inv([]), p2p.Block(bytes(1_000)), p2p.Headers([]))
        await peer.greet()
        peer.send(p2p.FeeFilter(5))

    async with line_to(script) as line:
        assert await line.message() == p2p.FeeFilter(5)
        assert line.owner.heads in ([], [bytes(80)])


async def test_pings_are_answered_and_our_own_are_timed() -> None:
    pongs: list[int] = []
    done = asyncio.Event()

    async def script(peer: Conversation) -> None:
        await peer.greet()
        peer.send(p2p.Ping(77))
        pongs.append((await peer.expect(p2p.Pong)).nonce)
        peer.send(p2p.FeeFilter(1))
        done.set()

    async with line_to(script) as line:
        await line.message()
        await done.wait()
        assert pongs == [77]
        assert line.connection.round_trip_s == 0.0


async def test_a_peer_that_does_not_answer_pings_is_left_by_the_clock() -> None:
    async def script(peer: Conversation) -> None:
        version = await peer.reader.readexactly(24)
        await peer.reader.readexactly(MessageHeader.decode(version).length)
        peer.send(peer.own_version(), p2p.Verack(), p2p.FeeFilter(1))
        while await peer.reader.read(4096):  # hears all, answers nothing
            pass

    async with line_to(script) as line:
        await line.message()
        line.wait(OPTIONS.ping_timeout_s)
        assert line.connection.state == "ready"
        line.wait(0.1)
        assert await line.owner.cause() is Cause.PING_TIMEOUT


async def test_a_peer_that_answers_pings_is_kept_however_long_it_is_silent() -> None:
    async def script(peer: Conversation) -> None:
        await peer.greet()
        while True:
            header = MessageHeader.decode(await peer.reader.readexactly(24))
            payload = await peer.reader.readexactly(header.length)
            if header.command == "ping":
                nonce = p2p.Ping.decode(payload).nonce
                peer.send(p2p.Pong(nonce), p2p.FeeFilter(nonce))

    async with line_to(script) as line:
        for _ in range(5):
            await line.message()
            line.wait(OPTIONS.ping_interval_s + 1)
            assert line.connection.state == "ready"


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (bytes.fromhex("f9beb4d9"), Cause.WRONG_MAGIC),
        (b"HTTP/1.1 400 Bad Request\r\n", Cause.WRONG_MAGIC),
        (MAGIC + b"\xff" * 20, Cause.BAD_COMMAND),
        (MessageHeader(MAGIC, "ping", 1_025, bytes(4)).encode(), Cause.OVERSIZE),
        (MessageHeader(MAGIC, "block", 4_000_001, bytes(4)).encode(), Cause.OVERSIZE),
        (MessageHeader(MAGIC, "unheardof", 2**32 - 1, bytes(4)).encode(), Cause.OVERSIZE),
        (pack_frame(MAGIC, "inv", b"\x02" + bytes(36)), Cause.MALFORMED),
        (pack_frame(MAGIC, "headers", b"\xfd\xd1\x07"), Cause.MALFORMED),
        (pack_frame(MAGIC, "ping", b"short"), Cause.MALFORMED),
    ],
)
async def test_a_peer_that_breaks_the_protocol_is_dropped(data: bytes, cause: Cause) -> None:
    async def script(peer: Conversation) -> None:
        await peer.greet()
        peer.send_bytes(data)

    async with line_to(script) as line:
        assert await line.owner.cause() is cause
        assert cause.is_lie


async def test_bad_checksums_are_passed_over_until_they_repeat() -> None:
    bad = bytearray(pack_frame(MAGIC, "tx", b"x" * 60))
    bad[20] ^= 1

    async def script(peer: Conversation) -> None:
        await peer.greet()
        for number in range(OPTIONS.bad_checksums_max + 1):
            peer.send(p2p.FeeFilter(number))
            peer.send_bytes(bytes(bad))

    async with line_to(script) as line:
        for number in range(OPTIONS.bad_checksums_max + 1):
            assert await line.message() == p2p.FeeFilter(number)
        assert await line.owner.cause() is Cause.BAD_CHECKSUM


async def test_a_blocks_bad_checksum_is_told_to_the_owner() -> None:
    bad = bytearray(pack_frame(MAGIC, "block", bytes(90_000)))
    bad[-1] ^= 1

    async def script(peer: Conversation) -> None:
        await peer.greet()
        peer.send_bytes(bytes(bad))
        peer.send(p2p.FeeFilter(1))

    async with line_to(script) as line:
        await line.message()
        assert line.owner.bad_blocks == 1
        assert line.owner.heads == [bytes(80)]


async def test_a_slow_drip_is_left_after_its_allowance() -> None:
    dripped = asyncio.Event()
    length = 1_000_000

    async def script(peer: Conversation) -> None:
        await peer.greet()
        peer.send_bytes(MessageHeader(MAGIC, "block", length, bytes(4)).encode() + bytes(100))
        await peer.writer.drain()
        dripped.set()

    async with line_to(script) as line:
        await line.ready()
        await dripped.wait()
        while not line.owner.heads:
            await asyncio.sleep(0)
        line.connection.check()
        line.wait(OPTIONS.message_s + length / OPTIONS.bytes_per_s_min - 1)
        assert line.connection.state == "ready"
        line.wait(1.1)
        assert await line.owner.cause() is Cause.SLOW_MESSAGE


async def test_half_a_message_header_then_silence_is_a_slow_message_too() -> None:
    async def script(peer: Conversation) -> None:
        await peer.greet()
        peer.send_bytes(p2p.pack_message(MAGIC, p2p.FeeFilter(1)) + MAGIC)
        await asyncio.Event().wait()

    async with line_to(script) as line:
        await line.message()
        while line.connection._reader.partial_since_ns == 0:
            await asyncio.sleep(0)
        line.connection.check()
        line.wait(OPTIONS.message_s + 0.1)
        assert await line.owner.cause() is Cause.SLOW_MESSAGE


async def test_a_peer_that_hangs_up_in_the_middle_of_a_block_is_lost() -> None:
    async def script(peer: Conversation) -> None:
        await peer.greet()
        peer.send_bytes(MessageHeader(MAGIC, "block", 500_000, bytes(4)).encode() + bytes(1_000))
        await peer.writer.drain()
        peer.writer.close()

    async with line_to(script) as line:
        assert await line.owner.cause() is Cause.LOST
        assert line.owner.messages.empty()


async def test_a_flood_of_small_messages_is_cut_off() -> None:
    options = msgspec.structs.replace(OPTIONS, messages_burst=100)

    async def script(peer: Conversation) -> None:
        await peer.greet()
        for number in range(200):
            peer.send(p2p.FeeFilter(number))

    async with line_to(script, options) as line:
        assert await line.owner.cause() is Cause.MESSAGE_FLOOD
        assert line.owner.messages.qsize() <= 100


async def test_a_peer_that_does_not_read_is_dropped() -> None:
    async def script(peer: Conversation) -> None:
        await peer.greet()
        cast(asyncio.Transport, peer.writer.transport).pause_reading()
        await asyncio.Event().wait()

    async with line_to(script) as line:
        await line.ready()
        for _ in range(20_000):
            line.connection.send(p2p.GetData([p2p.InvItem(1, bytes(32))] * 100))
            if line.connection.closed_by is not None:
                break
        assert await line.owner.cause() is Cause.NOT_READING


async def test_a_block_is_handed_on_whole_with_its_times() -> None:
    body = bytes(range(256)) * 4_000

    async def script(peer: Conversation) -> None:
        await peer.greet()
        peer.send(p2p.Block(body))

    async with line_to(script) as line:
        message, stamps = await asyncio.wait_for(line.owner.messages.get(), 10)
        assert isinstance(message, p2p.Block)
        assert bytes(message.raw) == body
        assert line.owner.heads == [body[:80]]
        assert 0 < stamps.first_byte_ns <= stamps.last_byte_ns


async def test_closing_twice_tells_the_owner_once() -> None:
    async with line_to(greet) as line:
        await line.ready()
        line.connection.close(Cause.CLOSED, "first")
        line.connection.close(Cause.BAD_BLOCK, "second")
        assert await line.owner.closed == (Cause.CLOSED, "first")
        line.connection.send(p2p.Ping(1))
        line.connection.check()
        assert line.connection.state == "closed"
