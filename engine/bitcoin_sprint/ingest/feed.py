"""What stands between a feed and the intake: the words both sides use, and nothing else.

A feed is one source of blocks and transactions (a peer, a node's ZeroMQ, files). It only speaks:
rings, header chain and tip belong to the intake. Everything here runs in the ingest process's one
asyncio thread; the intake's methods never block and never await.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from bitcoin_sprint.frames import MempoolAction, TipAction

HEADERS_BATCH_MAX = 2_000
"""Headers in one ``headers`` message of the protocol. A full batch means that more will follow."""


class SourceKind(enum.StrEnum):
    """How a source speaks to us."""

    P2P = "p2p"
    ZMQ = "zmq"
    REPLAY = "replay"


class Source(msgspec.Struct, frozen=True):
    """Who said it. ``index`` is its place in the rings' source table, ``name`` its name there."""

    index: int
    name: str
    kind: SourceKind
    trusted: bool = False


class Stamps(msgspec.Struct, frozen=True):
    """When a thing came, CLOCK_REALTIME ns, 0: unknown. ``origin_ns`` is the sender's own word."""

    origin_ns: int = 0
    first_byte_ns: int = 0
    last_byte_ns: int = 0


NO_STAMPS = Stamps()


class Verdict(enum.Enum):
    """What became of a block or transaction that a source brought."""

    ACCEPTED = "accepted"
    """Proved, first to arrive, published."""
    DUPLICATE = "duplicate"
    """Already proved from an earlier copy."""
    REFUSED = "refused"
    """It failed its proof, or was over its source's bound (``reason`` says which)."""
    HELD = "held"
    """Its chain has too little work, or its time is too far ahead; it may be published later."""
    ORPHAN = "orphan"
    """Its parent's header is unknown: the feed asks its source for headers (``Sink.locator``)."""


class Outcome(msgspec.Struct, frozen=True):
    """The answer to a block or transaction. ``punish``: the source lied and is to be dropped.

    ``hash`` is the block hash or txid in internal byte order, empty where the bytes were too
    broken to have one. ``reason`` is a short stable word, empty where all is well.
    """

    verdict: Verdict
    hash: bytes = b""
    reason: str = ""
    punish: bool = False


class HeadersOutcome(msgspec.Struct, frozen=True):
    """The answer to headers.

    ``accepted`` counts those that are now in the header chain (new or known); ``unknown_parent``
    is the parent that the first of the rest lacks: the feed asks its source for headers from
    ``Sink.locator()``; ``refused`` is the reason why one was refused, ``punish`` whether its
    sender is to be dropped for it. ``wanted`` lists the blocks, oldest first, that *this* feed
    asks its source for now (they are booked on it; another is asked if it does not deliver).
    ``more``: the batch was full, the feed asks for the next one.
    """

    accepted: int = 0
    unknown_parent: bytes | None = None
    refused: str | None = None
    wanted: Sequence[bytes] = ()
    more: bool = False
    punish: bool = False


class Sink(Protocol):
    """What a feed may say to the intake. Hashes are in internal byte order."""

    def on_headers(
        self, source: Source, headers: Sequence[bytes], stamps: Stamps = NO_STAMPS
    ) -> HeadersOutcome:
        """Headers of 80 bytes, oldest first; also an empty answer to a request for more.

        May be called with the first 80 bytes of a block while its body still arrives.
        """
        ...

    def on_block(
        self, source: Source, raw: bytes | memoryview, stamps: Stamps = NO_STAMPS
    ) -> Outcome:
        """A whole block in its network form. ``raw`` is not kept unless copied."""
        ...

    def on_transaction(
        self,
        source: Source,
        raw: bytes | memoryview,
        stamps: Stamps = NO_STAMPS,
        *,
        verified: bool = False,
    ) -> Outcome:
        """A transaction; ``verified``: the source is a node that took it into its mempool."""
        ...

    def on_mempool(
        self,
        source: Source,
        action: MempoolAction,
        txid: bytes,
        mempool_sequence: int,
        raw: bytes | None = None,
        stamps: Stamps = NO_STAMPS,
    ) -> None:
        """A node's mempool gained (with the body, where known) or lost a transaction, in order."""
        ...

    def on_node_connected(self, source: Source, tip: bytes | None) -> None:
        """A node with a ZeroMQ or RPC line is reachable (again); ``tip`` is its best block."""
        ...

    def on_node_lost(self, source: Source) -> None:
        """The line to the node is down; said once an episode."""
        ...

    def on_node_tip(self, source: Source, action: TipAction, hash: bytes) -> None:
        """The node connected or disconnected a block, in its order."""
        ...

    def on_node_refused(self, source: Source, hash: bytes, reason: str) -> None:
        """The node found the block invalid."""
        ...

    def on_body_failed(self, source: Source, hash: bytes) -> None:
        """A body that was asked of this source will not come from it: ask another now."""
        ...

    def wants_body(self, hash: bytes) -> bool:
        """Whether this block's body is still wanted from anyone."""
        ...

    def knows_header(self, hash: bytes) -> bool:
        """Whether this block's header is in the chain or held; if not, headers are worth asking."""
        ...

    def wants_transaction(self, hash: bytes) -> bool:
        """Whether a transaction announced by this txid or wtxid is unknown yet."""
        ...

    def locator(self) -> list[bytes]:
        """Block hashes for ``getheaders``, from our best header back to genesis."""
        ...

    def body(self, hash: bytes) -> bytes | None:
        """A recent block's raw bytes, while they are still in the ring."""
        ...


class Feed(Protocol):
    """One source at work."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> Source: ...

    @property
    def can_fetch(self) -> bool:
        """Whether a block may be asked of it right now (connected, and able to serve)."""
        ...

    async def run(self) -> None:
        """Work until cancelled; reconnects by itself with jittered backoff."""
        ...

    async def fetch_block(self, hash: bytes) -> bool:
        """Ask the source for a block; True once it was asked. The body comes to ``on_block``."""
        ...

    def snapshot(self) -> Mapping[str, Any]:
        """State for the operator: ``state``, addresses, counts."""
        ...
