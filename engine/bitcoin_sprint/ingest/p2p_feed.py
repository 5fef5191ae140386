"""The P2P feed: one slot for a Bitcoin peer, kept filled for as long as the process runs.

A slot is a fixed peer of the configuration, or one of ``outbound_count`` places for peers that DNS
seeds name. It connects, lets a ``Session`` talk, and when the connection ends says why, counts it,
waits as the address book tells it to, and connects again. Slots share a ``PeerGroup``: the address
book, who leads the header synchronisation, and who was asked for which transaction.

We serve nothing and listen nowhere; pings are answered, questions get an empty answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

from bitcoin_sprint.chains import Network
from bitcoin_sprint.episode import Episode
from bitcoin_sprint.ingest.feed import Sink, Source, SourceKind, Stamps
from bitcoin_sprint.ingest.p2p_causes import Cause
from bitcoin_sprint.ingest.p2p_connection import Connection, ConnectionOptions
from bitcoin_sprint.ingest.p2p_headers import HeaderLead
from bitcoin_sprint.ingest.p2p_messages import Message
from bitcoin_sprint.ingest.p2p_session import Session, SessionLimits, SessionSetting
from bitcoin_sprint.ingest.p2p_transactions import TransactionRequests
from bitcoin_sprint.ingest.peers import AddressBook, PeerAddress
from bitcoin_sprint.ingest.source_state import SourceState

_log = logging.getLogger(__name__)

USER_AGENT: Final = f"/bitcoin-sprint:{version('bitcoin-sprint')}/"
CONNECT_S: Final = 10.0
CHECK_S: Final = 0.25
"""How often deadlines are looked at."""


class PeerGroup:
    """What all P2P feeds of a process share. One event loop.

    ``transactions``: whether announced transactions are fetched. ``clock``: seconds, monotonic.
    """

    def __init__(
        self,
        network: Network,
        sink: Sink,
        book: AddressBook,
        *,
        transactions: bool = True,
        limits: SessionLimits | None = None,
        options: ConnectionOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.book = book
        self.clock = clock
        self.own_nonces: set[int] = set()
        self.requests = TransactionRequests(sink.wants_transaction) if transactions else None
        self.options = options or connection_options(network, transactions=transactions)
        self.setting = SessionSetting(
            network=network,
            sink=sink,
            limits=limits or SessionLimits(),
            lead=HeaderLead(),
            requests=self.requests,
            clock=clock,
        )


def connection_options(network: Network, *, transactions: bool = True) -> ConnectionOptions:
    """How we speak with peers of a network."""
    return ConnectionOptions(
        magic=network.magic,
        user_agent=USER_AGENT,
        protocol_version=network.protocol_version,
        protocol_version_min=network.protocol_version_min,
        services_required=network.services_required,
        block_bytes_max=network.block_bytes_max,
        relay_transactions=transactions,
    )


class _Call:
    """One connection with its session, and the future that its end resolves."""

    def __init__(self, feed: P2PFeed, group: PeerGroup, counts: Counter[str]) -> None:
        self._feed = feed
        self._clock = group.clock
        self.connection = Connection(group.options, self, group.own_nonces, clock=group.clock)
        self.session = Session(group.setting, feed.source, self.connection, counts)
        self.ended: asyncio.Future[tuple[Cause, str]] = asyncio.get_running_loop().create_future()
        self.ready_at: float | None = None

    @property
    def ready_s(self) -> float:
        return self._clock() - self.ready_at if self.ready_at is not None else 0.0

    def on_ready(self) -> None:
        self.ready_at = self._clock()
        self._feed.note_ready(self.connection)
        self.session.begin()

    def on_message(self, message: Message, stamps: Stamps) -> None:
        self.session.on_message(message, stamps)

    def on_block_head(self, header: bytes, stamps: Stamps) -> bool:
        return self.session.on_block_head(header, stamps)

    def on_bad_block_checksum(self) -> None:
        self.session.on_bad_block_checksum()

    def on_closed(self, cause: Cause, detail: str) -> None:
        self.session.end(cause)
        if not self.ended.done():
            self.ended.set_result((cause, detail))


class P2PFeed:
    """``feed.Feed`` over one slot; ``fixed`` is its peer, None: whom the address book names."""

    def __init__(self, group: PeerGroup, source: Source, fixed: PeerAddress | None = None) -> None:
        self._group = group
        self._source = source
        self._fixed = fixed
        self._call: _Call | None = None
        self._address: PeerAddress | None = None
        self._is_running = False
        # Peers that were found come and go; one that was asked for is missed.
        self._episode = Episode[SourceState](
            source.name,
            level=logging.INFO if fixed is None else logging.WARNING,
            clock=group.clock,
        )
        self._counts: Counter[str] = Counter()
        self._causes: Counter[str] = Counter()

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def source(self) -> Source:
        return self._source

    @property
    def can_fetch(self) -> bool:
        return self._call is not None and self._call.session.can_fetch

    async def fetch_block(self, hash: bytes) -> bool:
        return self._call is not None and self._call.session.fetch([hash])

    async def run(self) -> None:
        self._is_running = True
        try:
            while True:
                self._address = await self._group.book.acquire(self._fixed)
                await self._converse(self._address)
        finally:
            self._is_running = False

    async def _converse(self, address: PeerAddress) -> None:
        """Connect to ``address`` and stay until the connection ends."""
        call = self._call = _Call(self, self._group, self._counts)
        self._group.own_nonces.add(call.connection.nonce)
        try:
            await self._connect(call, address)
            while not call.ended.done():
                await asyncio.wait((call.ended,), timeout=CHECK_S)
                call.connection.check()
                self._episode.settle()
                if call.connection.ready:
                    call.session.check()
        finally:
            call.connection.close(Cause.CLOSED, "stopping")
            self._call = None
            self._group.own_nonces.discard(call.connection.nonce)
            self._note_end(call, address)

    async def _connect(self, call: _Call, address: PeerAddress) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                await loop.create_connection(lambda: call.connection, address.host, address.port)
        except TimeoutError:
            call.connection.close(Cause.UNREACHABLE, f"no answer within {CONNECT_S:g} s")
        except OSError as error:
            call.connection.close(Cause.UNREACHABLE, error.strerror or str(error))

    def note_ready(self, connection: Connection) -> None:
        """The handshake is done."""
        self._counts["connections"] += 1
        fields = {"address": str(self._address), "user_agent": connection.user_agent}
        if self._episode.count == 0:
            _log.info("%s: connected", self.name, extra={"source": self.name, **fields})
        self._episode.end(**fields)

    def _note_end(self, call: _Call, address: PeerAddress) -> None:
        cause, detail = call.ended.result()
        ready_s = call.ready_s
        self._counts["bytes_received"] += call.connection.bytes_received
        self._counts["bytes_sent"] += call.connection.bytes_sent
        self._counts["bad_checksums"] += call.connection.bad_checksums
        wait_s = self._group.book.release(address, cause, ready_s)
        if cause is Cause.CLOSED:
            return
        self._causes[cause] += 1
        was_ready = call.ready_at is not None
        self._episode.fail(
            cause.state(was_ready=was_ready),
            f"{_words(cause, was_ready)}: {detail}",
            is_attempt=not was_ready,
            address=str(self._address),
            cause=str(cause),
            retry_s=round(wait_s, 1),
        )

    @property
    def state(self) -> str:
        """The word of its ``SourceState``."""
        if self._call is not None and self._call.connection.ready:
            return SourceState.READY.word
        if not self._is_running:
            return SourceState.STOPPED.word
        return (self._episode.state or SourceState.CONNECTING).word

    def snapshot(self) -> Mapping[str, Any]:
        """State, peer, and counts since the start; ``dropped`` has the ended ones by cause."""
        call = self._call
        counts = Counter(self._counts)
        state: dict[str, Any] = {
            "state": self.state,
            "address": str(self._address or ""),
            "attempts": self._episode.attempts,
            "episodes": self._episode.count,
        }
        if call is not None:
            connection = call.connection
            counts["bytes_received"] += connection.bytes_received
            counts["bytes_sent"] += connection.bytes_sent
            counts["bad_checksums"] += connection.bad_checksums
            state["blocks_in_flight"] = call.session.blocks_in_flight
            if connection.round_trip_s is not None:
                state["round_trip_ms"] = round(connection.round_trip_s * 1e3, 3)
            if connection.peer_version is not None:
                state["user_agent"] = connection.user_agent
                state["protocol_version"] = connection.peer_version.version
        return state | {"counts": dict(counts), "dropped": dict(self._causes)}


def _words(cause: Cause, was_ready: bool) -> str:
    """What befell a connection, for an operator."""
    if cause is Cause.WRONG_MAGIC:
        return "is of another network, or no Bitcoin node"
    if cause.is_lie:
        return f"banned for {cause}"
    if cause.is_unfit:
        return f"of no use: {cause}"
    if was_ready:
        return "lost" if cause is Cause.LOST else f"lost for {cause}"
    if cause is Cause.UNREACHABLE:
        return "can't be reached"
    if cause is Cause.LOST:
        return "hangs up before the handshake; is it of this network?"
    return f"no handshake: {cause}"


def p2p_feeds(
    group: PeerGroup,
    new_source: Callable[[str, SourceKind], Source],
    *,
    fixed: Sequence[str],
    outbound_count: int = 0,
) -> list[P2PFeed]:
    """A feed for each fixed peer (``host:port``), and found ones up to ``outbound_count`` in all.

    ``new_source`` enters a name in the rings' source table. Raises ConfigError for an address that
    can't be one. Where the address book has no DNS seeds, ``outbound_count`` counts for nothing.
    """
    port = group.setting.network.default_port
    addresses = dict.fromkeys(PeerAddress.parse(text, port) for text in fixed)
    feeds = [
        P2PFeed(group, new_source(f"p2p {address}", SourceKind.P2P), address)
        for address in addresses
    ]
    if group.book.finds_peers:
        feeds += [
            P2PFeed(group, new_source(f"p2p {number}", SourceKind.P2P))
            for number in range(1, outbound_count - len(addresses) + 1)
        ]
    return feeds
