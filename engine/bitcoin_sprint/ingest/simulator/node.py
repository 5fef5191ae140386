"""Serves the simulated chain over Bitcoin's P2P protocol, as a full node would.

It speaks to any number of inbound peers: handshake, ``getheaders``, announcements by ``headers``
(or ``inv`` to peers that never sent ``sendheaders``), ``getdata`` for blocks and transactions,
``ping``. Blocks and transactions are served with their witnesses only; a request for the stripped
form, and for a body no longer kept, is answered by ``notfound``.

A peer that reads slowly costs at most one block beyond its socket's buffer, and one that asks for
too much at once, breaks the framing or never finishes its handshake is disconnected and counted.
One asyncio thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, cast

from bitcoin_sprint.errors import ProtocolError
from bitcoin_sprint.ingest import p2p_messages as p2p
from bitcoin_sprint.ingest.p2p_fields import NetworkAddress
from bitcoin_sprint.ingest.p2p_framing import FrameReader, MessageHeader, checksum
from bitcoin_sprint.ingest.simulator.blocks import SimBlock
from bitcoin_sprint.ingest.simulator.chain import SimChain
from bitcoin_sprint.ingest.simulator.transactions import SimTransaction

USER_AGENT: Final = "/Bitcoin Sprint simulator:1/"
REQUESTED_MAX: Final = 100_000
"""Inventory entries that one peer may have waiting to be served."""
HANDSHAKE_SECONDS_MAX: Final = 30.0
WRITE_BUFFER_BYTES_MAX: Final = 1 << 20
TRANSACTIONS_KEPT: Final = 50_000
SETTLE_ROUNDS: Final = 2
ANNOUNCED_HEADERS_MAX: Final = 8
"""Headers in one announcement; Core expects no more (``MAX_BLOCKS_TO_ANNOUNCE``)."""

_log = logging.getLogger(__name__)

_BLOCK_TYPES = (p2p.InvType.WITNESS_BLOCK, p2p.InvType.COMPACT_BLOCK)
_TRANSACTION_TYPES = (p2p.InvType.TX, p2p.InvType.WTX, p2p.InvType.WITNESS_TX)


class TransactionShelf:
    """The newest transactions by txid and wtxid, shared by all nodes of a simulation."""

    def __init__(self, kept: int = TRANSACTIONS_KEPT) -> None:
        self._kept = kept
        self._order: deque[SimTransaction] = deque()
        self._by_id: dict[bytes, SimTransaction] = {}

    def add(self, transactions: Sequence[SimTransaction]) -> None:
        for each in transactions:
            self._order.append(each)
            self._by_id[each.txid] = self._by_id[each.wtxid] = each
        while len(self._order) > self._kept:
            oldest = self._order.popleft()
            self._by_id.pop(oldest.txid, None)
            self._by_id.pop(oldest.wtxid, None)

    def get(self, hash: bytes) -> SimTransaction | None:
        return self._by_id.get(hash)


class _Peer(asyncio.BufferedProtocol):
    """One inbound connection."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._reader = FrameReader(node.chain.network.magic, self)
        self._requested: deque[p2p.InvItem] = deque()
        self._not_found: list[p2p.InvItem] = []
        self._paused = False
        self._version: p2p.Version | None = None
        self._wtxid_relay = False
        self._wants_headers = False
        self._timeout: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._pinged: dict[int, asyncio.Future[None]] = {}
        self.ready = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(WRITE_BUFFER_BYTES_MAX)
        loop = asyncio.get_running_loop()
        self._timeout = loop.call_later(HANDSHAKE_SECONDS_MAX, self._handshake_overdue)
        self._node.peers.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._reader.stop()
        self._requested.clear()
        if self._timeout is not None:
            self._timeout.cancel()
        self._node.peers.discard(self)
        self._transport = None
        for nonce in list(self._pinged):
            self._answered(nonce)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self._reader.received(nbytes, time.time_ns())
        except ProtocolError as error:
            self._drop(str(error))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._serve()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # What the frame reader asks and tells.

    def payload_bytes_max(self, command: str) -> int:
        return p2p.payload_bytes_max(command)

    def reads(self, command: str) -> bool:
        return command in p2p.DECODERS

    def block_head(self, header: bytes, first_byte_ns: int) -> bool:  # noqa: ARG002
        return False  # nobody gives us blocks

    def bad_checksum(self, command: str, length: int) -> None:
        _log.debug("wrong checksum on %s of %d bytes", command, length)

    def frame(self, command: str, payload: memoryview, first_ns: int, last_ns: int) -> None:  # noqa: ARG002
        message = p2p.decode_message(command, payload)
        if self._version is None and not isinstance(message, p2p.Version):
            raise ProtocolError(f"{command} came before version")
        match message:
            case p2p.Version():
                self._greet(message)
            case p2p.Verack():
                self._greeted()
            case p2p.WtxidRelay():
                self._wtxid_relay = True
            case p2p.SendHeaders():
                self._wants_headers = True
            case p2p.Ping():
                self._send(p2p.Pong(message.nonce))
            case p2p.Pong():
                self._answered(message.nonce)
            case p2p.GetHeaders():
                chain = self._node.chain
                headers = chain.headers_after(message.locator, message.stop, p2p.HEADERS_COUNT_MAX)
                self._send(p2p.Headers(headers))
            case p2p.GetBlocks():
                self._answer_getblocks(message)
            case p2p.GetData():
                self._request(message.items)
            case p2p.Mempool():
                self.announce_transactions(self._node.chain.mempool)
            case p2p.GetAddr():
                self._send(p2p.Addr(()))
            case _:
                pass

    # What the node has to tell the peer.

    def announce_blocks(self, blocks: Sequence[SimBlock]) -> None:
        """Tell of blocks that are new on the best chain, oldest first."""
        if self._wants_headers and len(blocks) <= ANNOUNCED_HEADERS_MAX:
            self._send(p2p.Headers([block.header for block in blocks]))
        else:
            self._send(p2p.Inv([p2p.InvItem(p2p.InvType.BLOCK, blocks[-1].hash)]))

    def announce_transactions(self, transactions: Sequence[SimTransaction]) -> None:
        if self._version is None or not self._version.relay:
            return
        if self._wtxid_relay:
            items = [p2p.InvItem(p2p.InvType.WTX, each.wtxid) for each in transactions]
        else:
            items = [p2p.InvItem(p2p.InvType.TX, each.txid) for each in transactions]
        for start in range(0, len(items), p2p.INVENTORY_COUNT_MAX):
            self._send(p2p.Inv(items[start : start + p2p.INVENTORY_COUNT_MAX]))

    def ping(self, nonce: int) -> asyncio.Future[None]:
        """Ask for an answer, which comes once all that was said before is taken, or it is gone."""
        answered = asyncio.get_running_loop().create_future()
        self._pinged[nonce] = answered
        self._send(p2p.Ping(nonce))
        return answered

    def _answered(self, nonce: int) -> None:
        answered = self._pinged.pop(nonce, None)
        if answered is not None and not answered.done():
            answered.set_result(None)

    def _greet(self, version: p2p.Version) -> None:
        if self._version is not None:
            raise ProtocolError("version came twice")
        self._version = version
        self._send(self._node.version())
        if version.version >= p2p.PROTOCOL_VERSION:
            self._send(p2p.WtxidRelay())
        self._send(p2p.Verack())

    def _greeted(self) -> None:
        if self.ready:
            return
        self.ready = True
        if self._timeout is not None:
            self._timeout.cancel()
        self._send(p2p.SendHeaders())
        self._node.count("handshakes")

    def _answer_getblocks(self, message: p2p.GetBlocks) -> None:
        chain = self._node.chain
        headers = chain.headers_after(message.locator, message.stop, 500)
        hashes = (chain.network.block_hash(header) for header in headers)
        self._send(p2p.Inv([p2p.InvItem(p2p.InvType.BLOCK, each) for each in hashes]))

    def _request(self, items: Sequence[p2p.InvItem]) -> None:
        self._requested += items
        if len(self._requested) > REQUESTED_MAX:
            raise ProtocolError(f"more than {REQUESTED_MAX} requests wait to be served")
        self._serve()

    def _serve(self) -> None:
        """Serve what was asked for, until the peer has to read first."""
        while self._requested and not self._paused and self._transport is not None:
            item = self._requested.popleft()
            if not self._serve_one(item):
                self._not_found.append(item)
        if self._not_found and not self._requested:
            self._send(p2p.NotFound(self._not_found))
            self._not_found = []

    def _serve_one(self, item: p2p.InvItem) -> bool:
        node = self._node
        if item.type in _BLOCK_TYPES:
            frame = node.block_frame(item.hash)
            if frame is None:
                return False
            node.count("blocks_served")
            self._write(*frame)
            return True
        transaction = node.shelf.get(item.hash) if item.type in _TRANSACTION_TYPES else None
        if transaction is None:
            return False
        if item.type == p2p.InvType.TX and transaction.has_witness:
            return False
        node.count("transactions_served")
        self._send(p2p.Transaction(transaction.raw))
        return True

    def _send(self, message: p2p.Message) -> None:
        self._write(p2p.pack_message(self._node.chain.network.magic, message))

    def _write(self, *parts: bytes) -> None:
        if self._transport is not None:
            self._transport.writelines(parts)

    def _handshake_overdue(self) -> None:
        self._drop(f"no handshake within {HANDSHAKE_SECONDS_MAX:.0f} s")

    def _drop(self, reason: str) -> None:
        _log.info("peer dropped: %s", reason)
        self._node.count("peers_dropped")
        self._reader.stop()
        self.close()


class SimNode:
    """One listening node. Several may serve the same chain and shelf, each on a port of its own."""

    def __init__(self, chain: SimChain, shelf: TransactionShelf) -> None:
        self.chain = chain
        self.shelf = shelf
        self.peers: set[_Peer] = set()
        self._counts = dict.fromkeys(
            ("handshakes", "peers_dropped", "blocks_served", "transactions_served"), 0
        )
        self._server: asyncio.Server | None = None
        self._frame: tuple[bytes, bytes, bytes] | None = None
        self._nonce = time.time_ns()
        self._pings = 0

    @property
    def counts(self) -> Mapping[str, int]:
        return self._counts

    @property
    def port(self) -> int:
        """The port listened on; 0 while not started."""
        if self._server is None or not self._server.sockets:
            return 0
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def is_heard(self) -> bool:
        """Whether any peer is there."""
        return any(peer.ready for peer in self.peers)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen. Raises OSError where the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Peer(self), host, port)

    async def close(self) -> None:
        """Stop listening and cut every connection."""
        for peer in list(self.peers):
            peer.close()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def announce_blocks(self, blocks: Sequence[SimBlock]) -> None:
        """Tell every peer of blocks that are new on the best chain, oldest first."""
        for peer in self._ready():
            peer.announce_blocks(blocks)

    def announce_transactions(self, transactions: Sequence[SimTransaction]) -> None:
        """Tell every peer of transactions new in the mempool; they must be on the shelf."""
        for peer in self._ready():
            peer.announce_transactions(transactions)

    async def settle(self, timeout_s: float) -> None:
        """Wait until every peer has taken what it was told, or ``timeout_s`` are over."""
        for _ in range(SETTLE_ROUNDS):
            # What a peer asked for on our word follows its first answer.
            self._pings += 1
            answers = [peer.ping(self._pings) for peer in self._ready()]
            if answers:
                await asyncio.wait(answers, timeout=timeout_s)

    def count(self, name: str) -> None:
        self._counts[name] += 1

    def version(self) -> p2p.Version:
        """What this node says of itself."""
        return p2p.Version(
            version=p2p.PROTOCOL_VERSION,
            services=p2p.Services.NETWORK | p2p.Services.WITNESS,
            timestamp=int(time.time()),
            receiver=NetworkAddress(),
            sender=NetworkAddress(),
            nonce=self._nonce,
            user_agent=USER_AGENT,
            start_height=self.chain.height,
        )

    def block_frame(self, hash: bytes) -> tuple[bytes, bytes] | None:
        """A block's message as header and payload; the newest one's header is made once."""
        if self._frame is not None and self._frame[0] == hash:
            return self._frame[1:]
        raw = self.chain.body(hash)
        if raw is None:
            return None
        header = MessageHeader(self.chain.network.magic, "block", len(raw), checksum(raw))
        self._frame = (hash, header.encode(), raw)
        return self._frame[1:]

    def _ready(self) -> list[_Peer]:
        return [peer for peer in self.peers if peer.ready]
